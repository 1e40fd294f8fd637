// A rank's box as another process left it.
#include "parallel/base/blackbox.h"

#include <fstream>

#include "tests/fuzz/targets.h"

void cadre::fuzz::box_target(std::string_view input) {
  // The right size and beginning, so that the rest is reached.
  static const std::string good = [] {
    const auto path = folder() / "good.box";
    { const base::Blackbox box(path, 0, 1); }
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }();
  std::string bytes = good;
  const size_t taken = std::min(input.size(), bytes.size() - 8);
  bytes.replace(8, taken, input.substr(0, taken));
  const auto box = base::read_box(write("rank.box", bytes));
  if (box) (void)base::name_of(box->phase);
}
