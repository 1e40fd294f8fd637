# Every package that the build needs. Nothing is downloaded; launch/install-packages installs them.
option(CADRE_TESTS "Build the tests and benchmarks" ON)
option(CADRE_CUDA "Build the CUDA backend too" OFF)
set(CADRE_SANITIZE "" CACHE STRING "Sanitizers to build with, as in -fsanitize= (address,undefined or thread)")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, Debug, ..." FORCE)
endif()

find_package(Threads REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
# The serial library: it is thread-safe on Debian and Ubuntu, the parallel one is not. Both may be installed side by side.
set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)
if(HDF5_IS_PARALLEL)
  message(FATAL_ERROR "found the parallel HDF5 (${HDF5_C_LIBRARIES}), expected the serial one: install libhdf5-dev, or set HDF5_ROOT")
endif()
find_package(yaml-cpp REQUIRED)
find_package(absl REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(ZLIB REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
# By name: the generic libblas that FindBLAS may choose has no thread control and no speed.
set(BLA_VENDOR OpenBLAS)
find_package(BLAS REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)

# Open MPI's C++ bindings are long deprecated and warn under -Wextra.
add_library(cadre_mpi INTERFACE)
target_link_libraries(cadre_mpi INTERFACE MPI::MPI_C)
target_compile_definitions(cadre_mpi INTERFACE OMPI_SKIP_MPICXX=1)

add_library(cadre_warnings INTERFACE)
target_compile_options(cadre_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror>)
# GCC 12 and 13 report fmt 9's own parser at -O3 with -march=native ("writing 1 byte into a region of size 0"): no such write exists.
target_compile_options(cadre_warnings INTERFACE $<$<CXX_COMPILER_ID:GNU>:$<$<COMPILE_LANGUAGE:CXX>:-Wno-stringop-overflow>>)
if(CADRE_SANITIZE)
  target_compile_options(cadre_warnings INTERFACE -fsanitize=${CADRE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(cadre_warnings INTERFACE -fsanitize=${CADRE_SANITIZE})
endif()

find_program(CADRE_CCACHE ccache)
if(CADRE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CADRE_CCACHE})
endif()
find_program(CADRE_MOLD mold)
if(CADRE_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
