#include "launch/gpus.h"

#include <sstream>
#include <string>

namespace cadre::launch {

int count_gpus(const char* visible, const std::filesystem::path& dev) {
  int count = 0;
  std::error_code none;
  if (visible == nullptr) {
    while (std::filesystem::exists(dev / ("nvidia" + std::to_string(count)), none)) ++count;
    return count;
  }
  std::istringstream entries(visible);
  for (std::string entry; std::getline(entries, entry, ',') && !entry.empty() && entry[0] != '-';) ++count;
  return count;
}

}  // namespace cadre::launch
