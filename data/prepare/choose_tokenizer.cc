#include "data/prepare/choose_tokenizer.h"

#include <algorithm>

#include "data/prepare/parts.h"
#include "data/prepare/scan.h"
#include "data/prepare/select.h"
#include "data/prepare/workers.h"
#include "data/tokenizers/sentencepiece.h"
#include "parallel/base/log.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

struct Candidate {
  uint64_t key = 0;
  int64_t unit = 0;
  uint64_t offset = 0, bytes = 0;  // of the text in the sample part
};

// The training documents among the candidates, by key: an order that has nothing to do with that of the
// input.
std::vector<Candidate> list_candidates(const Work& work) {
  const Choices choices(work);
  std::vector<Candidate> candidates;
  for (int64_t unit = 0; unit < work.num_units(); ++unit) {
    const PartReader part(work.sample_part(unit));
    const std::vector<Choice> of_unit = choices.of_unit(unit);
    for (uint64_t offset = 0; offset < part.body_bytes();) {
      SampleHead head;
      part.read(offset, std::as_writable_bytes(std::span(&head, 1)));
      offset += sizeof head;
      if (of_unit[head.document] == Choice::kTrain)
        candidates.push_back({head.key, unit, offset, head.bytes});
      offset += head.bytes;
    }
  }
  std::ranges::sort(candidates, {}, [](const Candidate& c) { return std::tuple(c.key, c.unit, c.offset); });
  return candidates;
}

std::vector<std::string> read_sample(const Work& work) {
  std::vector<std::string> texts;
  int64_t left = work.options.sample_bytes;
  for (const Candidate& candidate : list_candidates(work)) {
    if (left <= 0) break;
    std::string text(candidate.bytes, '\0');
    PartReader(work.sample_part(candidate.unit))
        .read(candidate.offset, std::as_writable_bytes(std::span(text.data(), text.size())));
    left -= static_cast<int64_t>(text.size());
    texts.push_back(std::move(text));
  }
  return texts;
}

std::unique_ptr<Tokenizer> make(const Work& work) {
  const std::string& name = work.options.tokenizer;
  if (name == "bytes") return make_byte_tokenizer();
  if (!work.trains_tokenizer()) return load_tokenizer(name);
  const std::vector<std::string> sample = read_sample(work);
  size_t bytes = 0;
  for (const std::string& text : sample) bytes += text.size();
  spdlog::info("training a tokenizer of {} pieces on {:.1f} MB of {} documents", work.options.vocab_size,
               static_cast<double>(bytes) / 1e6, sample.size());
  return make_sentencepiece(train_sentencepiece(sample, work.options.vocab_size), "trained model");
}

// The one file of the folder; empty when there is none yet.
fs::path saved_tokenizer(const fs::path& folder) {
  for (const char* name : {"tokenizer.model", "tokenizer.json", "tokenizer.bytes.json"}) {
    if (fs::exists(folder / name)) return folder / name;
  }
  return {};
}

}  // namespace

std::unique_ptr<Tokenizer> choose_tokenizer(const Work& work) {
  const fs::path folder = work.tokenizer_folder();
  run_on_root(work.comm, "tokenizer", [&] {
    if (saved_tokenizer(folder).empty()) save_tokenizer(*make(work), folder);
  });
  return load_tokenizer(saved_tokenizer(folder));
}

}  // namespace cadre::data
