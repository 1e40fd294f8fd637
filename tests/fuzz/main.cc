// libFuzzer's entry for all targets: CADRE_FUZZ_TARGET names the one to run. launch/fuzz sets it.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "tests/fuzz/targets.h"

namespace cadre::fuzz {
namespace {

struct Row {
  const char* name;
  void (*run)(std::string_view);
};
constexpr Row kTargets[] = {
    {"box", box_target},
    {"chat_template", chat_template_target},
    {"checkpoint_index", checkpoint_index_target},
    {"domain_file", domain_file_target},
    {"json_line", json_line_target},
    {"manifest", manifest_target},
    {"published_model", published_model_target},
    {"run_file", run_file_target},
    {"run_folder", run_folder_target},
    {"safetensors", safetensors_target},
    {"scores", scores_target},
    {"sentencepiece", sentencepiece_target},
    {"shard", shard_target},
    {"task_file", task_file_target},
    {"tokenizer", tokenizer_target},
};

void (*chosen)(std::string_view) = nullptr;

struct Folder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("cadre-fuzz-" + std::to_string(getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

}  // namespace

const std::filesystem::path& folder() {
  static const Folder made;
  return made.path;
}

std::filesystem::path write(const std::string& name, std::string_view bytes) {
  const std::filesystem::path path = folder() / name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

}  // namespace cadre::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  using namespace cadre::fuzz;
  const char* name = std::getenv("CADRE_FUZZ_TARGET");
  for (const Row& row : kTargets) {
    if (name != nullptr && std::strcmp(name, row.name) == 0) chosen = row.run;
  }
  if (chosen == nullptr) {
    std::fprintf(stderr, "fuzz: CADRE_FUZZ_TARGET names none of the targets of tests/fuzz/main.cc\n");
    std::exit(2);
  }
  (void)folder();  // before what the targets keep, so that it is removed after them
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  cadre::fuzz::chosen({reinterpret_cast<const char*>(data), size});
  return 0;
}
