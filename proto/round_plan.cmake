# The geometry of rounds, which the orchestrator and the regions share.
atoll_library(round_plan SOURCES round_plan.cc sample_pool.cc PUBLIC atoll_schema atoll_base)
