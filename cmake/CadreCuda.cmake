# The CUDA language, when CADRE_CUDA is ON. Included by the root, so that the language holds for every folder.
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
# CMake before 3.26 does not know that nvcc takes C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
# Real code for A100 and H100/H200 only: compile time doubles with each target.
set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real")
if(CADRE_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CADRE_CCACHE})
endif()

# NCCL, for several GPUs: of the CUDA toolkit's folder or the system's (packages libnccl2 and libnccl-dev). Without it a
# run takes one GPU.
find_path(CADRE_NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(CADRE_NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
if(CADRE_NCCL_INCLUDE AND CADRE_NCCL_LIBRARY)
  set(CADRE_NCCL ON)
  message(STATUS "several GPUs: NCCL (${CADRE_NCCL_LIBRARY})")
else()
  set(CADRE_NCCL OFF)
  message(STATUS "several GPUs: no, NCCL was not found (library: ${CADRE_NCCL_LIBRARY}, nccl.h: ${CADRE_NCCL_INCLUDE})")
endif()

# cuDNN through the header library cudnn-frontend, which distributions lack: -DCUDNN_FRONTEND_DIR, or where pip puts the
# package nvidia-cudnn-frontend. Without it the project's own attention kernels serve.
set(CUDNN_FRONTEND_DIR "" CACHE PATH "Folder that holds include/cudnn_frontend.h or cudnn_frontend.h")
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND)
  execute_process(COMMAND ${Python3_EXECUTABLE} -c "import sysconfig; p = sysconfig.get_paths(); print(p['data'] + ';' + p['purelib'])"
    OUTPUT_VARIABLE cadre_python_paths OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
# launch/quickstart --cuda puts the package into build/cuda-headers.
find_path(CADRE_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h HINTS ${CUDNN_FRONTEND_DIR} ${CUDNN_FRONTEND_DIR}/include
  PATHS ${PROJECT_SOURCE_DIR}/build/cuda-headers ${cadre_python_paths} PATH_SUFFIXES include)
find_path(CADRE_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} PATHS /usr/include/x86_64-linux-gnu)
find_library(CADRE_CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR})
if(CUDNN_FRONTEND_DIR AND NOT CADRE_CUDNN_FRONTEND_INCLUDE)
  message(FATAL_ERROR "CUDNN_FRONTEND_DIR=${CUDNN_FRONTEND_DIR} holds no cudnn_frontend.h")
endif()
if(CADRE_CUDNN_FRONTEND_INCLUDE AND CADRE_CUDNN_INCLUDE AND CADRE_CUDNN_LIBRARY)
  set(CADRE_CUDNN ON)
  set(cadre_attention "cuDNN and own kernels")
  message(STATUS "attention: cuDNN (${CADRE_CUDNN_LIBRARY}, cudnn-frontend in ${CADRE_CUDNN_FRONTEND_INCLUDE}) and own kernels")
else()
  set(CADRE_CUDNN OFF)
  set(cadre_attention "own kernels")
  message(STATUS "attention: own kernels only (cuDNN: ${CADRE_CUDNN_LIBRARY}, cudnn-frontend: ${CADRE_CUDNN_FRONTEND_INCLUDE}; see CUDNN_FRONTEND_DIR)")
endif()
