# Tests of what `atoll train` and `atoll status` are made of.
atoll_test(train_process_test SOURCES train_process_test.cc LIBS atoll_supervise)
atoll_test(train_files_test SOURCES train_files_test.cc LIBS atoll_supervise)
atoll_test(train_setup_test SOURCES train_setup_test.cc LIBS atoll_verbs atoll_schema atoll_verb)
atoll_test(status_verb_test SOURCES status_test.cc LIBS atoll_verbs atoll_verb)
