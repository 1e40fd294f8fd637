// What the tests of BPE tokenizers share: the small tokenizers of tests/golden and a folder to write spoilt
// ones to.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/tokenizer_json.h"
#include "parallel/base/errors.h"
#include "parallel/base/files.h"
#include "tests/temp_folder.h"

namespace cadre::data {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

inline const fs::path kGolden = CADRE_GOLDEN_FOLDER;
inline Json read_json(const fs::path& file) {
  return Json::parse(base::read_file(file, ExitCode::kData));
}

inline Ids encode(const Tokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode(text, ids);
  return ids;
}

inline Ids encode_with_specials(const BpeTokenizer& tokenizer, std::string_view text) {
  Ids ids;
  tokenizer.encode_with_specials(text, ids);
  return ids;
}

class Scratch : test::TempFolder {
 public:
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }
  const fs::path path = TempFolder::path();
};

}  // namespace cadre::data
