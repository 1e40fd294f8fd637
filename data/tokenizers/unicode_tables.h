// Unicode data that the packages lack; see tests/golden/make_unicode_tables.py.
#pragma once

#include <cstdint>
#include <vector>

namespace cadre::data {

enum class Category : uint8_t { kLu, kLl, kLt, kLm, kLo, kM, kNd, kNl, kNo, kP, kS };

struct CodePointRange {
  uint32_t first, last;  // both included
};
struct CategoryRange {
  uint32_t first, last;
  Category category;
};

// Code points that the reference library classifies (Unicode 16) and Unicode 14, the version of PCRE2 10.42
// and utf8proc 2.8, leaves unassigned. Sorted.
const std::vector<CategoryRange>& newer_code_points();
// Code points that normalisation form C may reorder, join to the one before or replace, as far as the
// reference library's older tables (Unicode 9) know them. The others stay as they are. Sorted.
const std::vector<CodePointRange>& nfc_active();

}  // namespace cadre::data
