// Which host and which process this is, for ranks that want to know whether they share memory. Numbers of processes do
// not say so: containers of one host count them each from 1.
#pragma once

#include <cstdint>
#include <fstream>
#include <random>
#include <string>

namespace cadre::device {

// The same for all processes of a host since it started; empty where the system does not say, and then nobody shares.
inline std::string host_identity() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

inline uint64_t process_identity() {
  static const uint64_t kId = [] {
    std::random_device random;
    return uint64_t(random()) << 32 | random();
  }();
  return kId;
}

}  // namespace cadre::device
