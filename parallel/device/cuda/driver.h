// Why no GPU can be used. The runtime gives one error for an old driver and for none, so this looks for what a driver
// leaves on a machine. Looking and judging are apart, so that every case has a test.
#pragma once

#include <string>

namespace cadre::device::cuda {

struct DriverFacts {
  int driver = 0, runtime = 0;  // CUDA versions, 1000 major + 10 minor; driver is 0 where none answers
  bool gpu = false;             // a display or 3D controller of NVIDIA's on the PCI bus
  bool module = false;          // the kernel has loaded the driver
  bool library = false;         // libcuda.so.1 can be loaded
  bool nodes = false;           // /dev/nvidiactl
  bool too_old = false;         // the runtime refuses the driver
  std::string error = {};       // another error of the runtime
};
// too_old and error are the caller's to fill.
DriverFacts look_for_driver();

// One line: what is wrong and what to do.
std::string why_no_gpu(const DriverFacts& facts);

// What to say about a GPU that is there: "GPU 0: NAME, sm_90, 80 GiB", and why this build has no code for it.
std::string describe_gpu(int index, const std::string& name, int major, int minor, double gib, bool has_code);

}  // namespace cadre::device::cuda
