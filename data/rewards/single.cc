#include "data/rewards/single.h"

namespace cadre::data {

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string_view answer_of(std::string_view response, std::string_view marker) {
  if (marker.empty()) return trimmed(response);
  const size_t at = response.rfind(marker);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = response.substr(at + marker.size());
  return trimmed(rest.substr(0, rest.find('\n')));
}

}  // namespace cadre::data
