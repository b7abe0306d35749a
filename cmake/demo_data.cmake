# demo_data: build/data/kjv.bin, the King James Bible as byte tokens, which configs/jobs/demo.yaml trains on. Part of ALL,
# so that the demo's job works right after a build. Left out with a message where the text is not installed.
find_program(BIBLE bible)
if(NOT BIBLE)
  message(STATUS "demo_data: the program 'bible' is not installed (Debian packages bible-kjv, bible-kjv-text): "
                 "no ${CMAKE_BINARY_DIR}/data/kjv.bin, name your own text with atoll data tokenize")
elseif(TARGET atoll AND NOT ATOLL_SANITIZE)
  add_custom_command(
    OUTPUT ${CMAKE_BINARY_DIR}/data/kjv.bin
    COMMAND ${CMAKE_SOURCE_DIR}/scripts/kjv ${CMAKE_BINARY_DIR}/data/kjv.txt
    COMMAND $<TARGET_FILE:atoll> data tokenize --tokenizer bytes --output ${CMAKE_BINARY_DIR}/data/kjv.bin
            --input ${CMAKE_BINARY_DIR}/data/kjv.txt > ${CMAKE_BINARY_DIR}/data/kjv.log
    DEPENDS ${CMAKE_SOURCE_DIR}/scripts/kjv
    COMMENT "Tokenizing the King James Bible into data/kjv.bin")
  add_custom_target(demo_data ALL DEPENDS ${CMAKE_BINARY_DIR}/data/kjv.bin)
endif()
