// The fuzz targets and what they share: bytes become a file in a folder of this process, and the project's Error is the only
// exception that a parser may answer with.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "parallel/base/errors.h"

namespace cadre::fuzz {

// One function and one row in main.cc for each kind of file. They abort when what was read could do harm later.
void box_target(std::string_view input);
void chat_template_target(std::string_view input);
void checkpoint_index_target(std::string_view input);
void domain_file_target(std::string_view input);
void json_line_target(std::string_view input);
void manifest_target(std::string_view input);
void published_model_target(std::string_view input);
void run_file_target(std::string_view input);
void run_folder_target(std::string_view input);
void safetensors_target(std::string_view input);
void scores_target(std::string_view input);
void sentencepiece_target(std::string_view input);
void shard_target(std::string_view input);
void task_file_target(std::string_view input);
void tokenizer_target(std::string_view input);

// A folder of this process, removed when it ends.
const std::filesystem::path& folder();
std::filesystem::path write(const std::string& name, std::string_view bytes);

// Runs body; an Error is a fine answer, any other exception is a finding.
template <class Body>
void survive(const Body& body) {
  try {
    body();
  } catch (const Error&) {
  }
}

}  // namespace cadre::fuzz
