# Model shapes by name. Included by proto/CMakeLists.txt.
atoll_library(presets SOURCES model_presets.cc PUBLIC atoll_base atoll_schema)
