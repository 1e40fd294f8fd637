#include "launch/gpus.h"

#include <sstream>

namespace cadre::launch {

std::vector<std::string> name_gpus(const char* visible, const std::filesystem::path& dev) {
  std::vector<std::string> names;
  std::error_code none;
  if (visible == nullptr) {
    for (std::string number = "0"; std::filesystem::exists(dev / ("nvidia" + number), none);
         number = std::to_string(names.size()))
      names.push_back(number);
    return names;
  }
  std::istringstream entries(visible);
  for (std::string entry; std::getline(entries, entry, ',') && !entry.empty() && entry[0] != '-';)
    names.push_back(entry);
  return names;
}

int count_gpus(const char* visible, const std::filesystem::path& dev) {
  return int(name_gpus(visible, dev).size());
}

}  // namespace cadre::launch
