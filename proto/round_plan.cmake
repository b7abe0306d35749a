# The terms of leases and the geometry of rounds, which the orchestrator and the regions share.
atoll_library(lease_terms SOURCES lease_terms.cc PUBLIC atoll_schema atoll_base)
atoll_library(round_plan SOURCES round_plan.cc sample_pool.cc PUBLIC atoll_schema atoll_base)
