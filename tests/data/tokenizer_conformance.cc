// Compares a tokenizer with the ids that the reference library gives, on as much text as one likes, and
// measures its speed on one thread. Cases come from tests/golden/make_tokenizer_cases.py, which explains
// their format.
//
//   data_tokenizer_conformance TOKENIZER CASES [ROUNDS]
//   CADRE_TOKENIZER_CASES=FOLDER data_tokenizer_conformance     every NAME.cases there, with NAME.json or the
//   folder NAME
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/tokenizer_json.h"
#include "parallel/base/errors.h"
#include "parallel/base/files.h"

namespace cadre::data {
namespace {

struct Case {
  std::string_view text;
  std::vector<int32_t> ids;
};

uint32_t take_number(std::string_view& rest) {
  uint32_t n = 0;
  require(rest.size() >= sizeof(n), ExitCode::kData, "the file of cases ends in the middle of one");
  std::memcpy(&n, rest.data(), sizeof(n));
  rest.remove_prefix(sizeof(n));
  return n;
}

std::string_view take_bytes(std::string_view& rest, size_t size) {
  require(rest.size() >= size, ExitCode::kData, "the file of cases ends in the middle of one");
  const std::string_view bytes = rest.substr(0, size);
  rest.remove_prefix(size);
  return bytes;
}

std::vector<Case> read_cases(std::string_view rest) {
  std::vector<Case> cases;
  while (!rest.empty()) {
    Case c;
    c.text = take_bytes(rest, take_number(rest));
    const size_t count = take_number(rest);
    const std::string_view ids = take_bytes(rest, count * sizeof(int32_t));
    c.ids.resize(count);
    std::memcpy(c.ids.data(), ids.data(), ids.size());
    cases.push_back(std::move(c));
  }
  return cases;
}

// The first place where the two differ, in words.
void report(const BpeTokenizer& tokenizer, const Case& c, const std::vector<int32_t>& ids, size_t number) {
  size_t at = 0;
  while (at < std::min(ids.size(), c.ids.size()) && ids[at] == c.ids[at]) ++at;
  const auto show = [&](const std::vector<int32_t>& from) {
    for (size_t i = at; i < std::min(from.size(), at + 6); ++i)
      std::printf(" %d '%s'", from[i], tokenizer.decode({&from[i], 1}).c_str());
    std::printf("\n");
  };
  std::printf("text %zu (%zu bytes), token %zu:\n  expected", number, c.text.size(), at);
  show(c.ids);
  std::printf("  found   ");
  show(ids);
}

int run(const std::string& tokenizer_path, const std::string& cases_path, int rounds) {
  const auto tokenizer = import_tokenizer(tokenizer_path);
  const std::string bytes = base::read_file(cases_path, ExitCode::kData);
  const std::vector<Case> cases = read_cases(bytes);
  constexpr size_t kReported = 10;
  size_t wrong = 0, text_bytes = 0, tokens = 0, changed = 0;
  std::vector<int32_t> ids;
  for (size_t i = 0; i < cases.size(); ++i) {
    ids.clear();
    tokenizer->encode_with_specials(cases[i].text, ids);
    text_bytes += cases[i].text.size();
    tokens += ids.size();
    if (ids != cases[i].ids && wrong++ < kReported) report(*tokenizer, cases[i], ids, i);
    if (tokenizer->decode(ids) != cases[i].text) ++changed;
  }
  double best = 0;
  for (int round = 0; round < rounds; ++round) {
    const std::clock_t begin = std::clock();  // of this process, so that a busy machine changes little
    for (const Case& c : cases) {
      ids.clear();
      tokenizer->encode_with_specials(c.text, ids);
    }
    const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    best = std::max(best, static_cast<double>(text_bytes) / 1e6 / seconds);
  }
  std::printf("%zu texts, %zu bytes, %zu tokens, %zu texts with other ids, %zu changed by decode(encode)",
              cases.size(), text_bytes, tokens, wrong, changed);
  if (rounds > 0) std::printf(", best of %d: %.1f MB a CPU second", rounds, best);
  std::printf("\n");
  return wrong == 0 && !cases.empty() ? 0 : 1;
}

int run_folder(const char* folder) {
  namespace fs = std::filesystem;
  constexpr int kSkipped = 77;
  if (!folder) {
    std::printf("skipped: CADRE_TOKENIZER_CASES names no folder of cases\n");
    return kSkipped;
  }
  int wrong = 0, found = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".cases") continue;
    fs::path tokenizer = entry.path();
    tokenizer.replace_extension();
    if (!fs::is_directory(tokenizer)) tokenizer.replace_extension(".json");
    std::printf("%s: ", entry.path().filename().c_str());
    wrong += run(tokenizer.string(), entry.path().string(), 0);
    ++found;
  }
  return found > 0 && wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace cadre::data

int main(int argc, char** argv) {
  if (argc == 2) {
    std::fprintf(stderr, "usage: %s [TOKENIZER CASES [ROUNDS]]\n", argv[0]);
    return 2;
  }
  try {
    if (argc == 1) return cadre::data::run_folder(std::getenv("CADRE_TOKENIZER_CASES"));
    return cadre::data::run(argv[1], argv[2], argc > 3 ? std::stoi(argv[3]) : 0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
}
