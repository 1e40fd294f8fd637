// HDF5's C API with owned handles, one lock and readable errors. HDF5 is called only while an Hdf5Lock is
// held: parallel builds of the library are not thread-safe.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <vector>

#include "parallel/base/errors.h"

namespace cadre::data {

// Takes the process-wide lock and turns off the printing of errors, which HDF5 keeps by thread.
class Hdf5Lock {
 public:
  Hdf5Lock();

 private:
  std::lock_guard<std::mutex> lock_;
};

// The innermost entry of HDF5's error stack.
std::string hdf5_error();

// An identifier and the function that closes it. Throws Error(kData) when `id` is an error: "<what>: <HDF5's
// reason>".
class Hdf5Handle {
 public:
  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what);
  Hdf5Handle(Hdf5Handle&& other) noexcept;
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept;
  ~Hdf5Handle();
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

inline void hdf5_check(herr_t status, const std::string& what) {
  if (status < 0) fail(ExitCode::kData, "{}: {}", what, hdf5_error());
}

}  // namespace cadre::data
