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

# cadre_backends(NAME): the library's tables list the backends that are built, whose code is in its folder cuda/
# (parallel/device/backends.h).
macro(cadre_backends name)
  if(CADRE_CUDA)
    add_subdirectory(cuda)
    target_compile_definitions(${name} PRIVATE CADRE_CUDA=1)
    target_link_libraries(${name} PRIVATE ${name}_cuda)
  endif()
endmacro()

# cadre_apart(FILES...): files with names of their own (an alias, an explicit instantiation) that others of the target have too; a build
# of several files at once (CMAKE_UNITY_BUILD, the sanitizer preset: headers cost more there than code) leaves them alone.
function(cadre_apart)
  set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

# What every test runs with: Open MPI as root and with more ranks than cores, one BLAS thread, and sanitizers that stop at the
# first finding. MPI leaks by design; its suppressions match only with the slow unwinder, since its libraries have no frame
# pointers, so only tests that start MPI pay for that.
set(CADRE_TEST_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OPENBLAS_NUM_THREADS=1
  LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/sanitizers/lsan.supp:print_suppressions=0
  UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=ignore_noninstrumented_modules=1)
set(CADRE_MPI_TEST_ENVIRONMENT ${CADRE_TEST_ENVIRONMENT} ASAN_OPTIONS=fast_unwind_on_malloc=0)

# cadre_test(NAME SOURCES a_test.cc LINK targets... LABELS cpu slow [RANKS 4] [ARGS ...]): one GoogleTest program, one ctest
# entry. With RANKS it runs under mpirun. The target tests_LABEL builds all test programs of a label.
function(cadre_test name)
  cmake_parse_arguments(ARG "" "RANKS;TIMEOUT" "SOURCES;LINK;LABELS;ARGS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  if(ARG_RANKS)
    target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest cadre_warnings)
    add_test(NAME ${name} COMMAND ${MPIEXEC_EXECUTABLE} -np ${ARG_RANKS} $<TARGET_FILE:${name}> ${ARG_ARGS})
    set_tests_properties(${name} PROPERTIES PROCESSORS ${ARG_RANKS})
  else()
    target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gtest_main cadre_warnings)
    add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  endif()
  if(NOT ARG_TIMEOUT AND CADRE_SANITIZE)
    set(ARG_TIMEOUT 900)  # at -O0, and beside what else a machine does
  elseif(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set(environment ${CADRE_TEST_ENVIRONMENT})
  if(ARG_RANKS OR "mpi" IN_LIST ARG_LABELS)
    set(environment ${CADRE_MPI_TEST_ENVIRONMENT})
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} ENVIRONMENT "${environment}")
  foreach(label ${ARG_LABELS})
    if(NOT TARGET tests_${label})
      add_custom_target(tests_${label})
    endif()
    add_dependencies(tests_${label} ${name})
  endforeach()
endfunction()

# cadre_test_one_gpu(NAME RANKS 2): the ranks of a test for several GPUs once more, as NAME_on_one_gpu, where they may
# share one (tests/comm/nccl/one_gpu_nccl.cc).
function(cadre_test_one_gpu name)
  cmake_parse_arguments(ARG "" "RANKS" "" ${ARGN})
  add_test(NAME ${name}_on_one_gpu
    COMMAND ${MPIEXEC_EXECUTABLE} -np ${ARG_RANKS} -x LD_PRELOAD=$<TARGET_FILE:one_gpu_nccl> $<TARGET_FILE:${name}>)
  set_tests_properties(${name}_on_one_gpu PROPERTIES PROCESSORS ${ARG_RANKS} LABELS cuda TIMEOUT 600 ENVIRONMENT "${CADRE_MPI_TEST_ENVIRONMENT}")
  add_dependencies(${name} one_gpu_nccl)
endfunction()
