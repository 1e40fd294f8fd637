# cadre_library(NAME [FOLDERS . routers ...] LINK targets...): a static library of all the .cc files of the given folders (default:
# this one), so that a new variant is a file and a row in its table, not an edit here. System headers come in by
# target; the project's own are included from the root ("parallel/base/errors.h").
function(cadre_library name)
  cmake_parse_arguments(ARG "" "" "FOLDERS;LINK" ${ARGN})
  if(NOT ARG_FOLDERS)
    set(ARG_FOLDERS .)
  endif()
  list(TRANSFORM ARG_FOLDERS APPEND "/*.cc")
  file(GLOB sources CONFIGURE_DEPENDS ${ARG_FOLDERS})
  if(NOT sources)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${ARG_LINK})
    return()
  endif()
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_LINK} PRIVATE cadre_warnings)
endfunction()

# cadre_test(NAME SOURCES a_test.cc LINK targets... LABELS cpu slow [RANKS 4] [ARGS ...]): one GoogleTest program, one ctest
# entry. With RANKS it runs under mpirun.
function(cadre_test name)
  cmake_parse_arguments(ARG "" "RANKS;TIMEOUT" "SOURCES;LINK;LABELS;ARGS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  if(ARG_RANKS)
    target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest cadre_warnings)
    add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} -np ${ARG_RANKS} $<TARGET_FILE:${name}> ${ARG_ARGS})
  else()
    target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest_main cadre_warnings)
    add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} ENVIRONMENT
    "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1;OPENBLAS_NUM_THREADS=1")
endfunction()
