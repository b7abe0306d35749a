# What the verbs train and status are made of; they themselves are in atoll_verbs.
atoll_library(supervise
  SOURCES process.cc run_directory.cc progress.cc failure_block.cc
  PUBLIC atoll_verb)
target_link_libraries(atoll_verbs PRIVATE atoll_supervise)
