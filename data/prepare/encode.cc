#include "data/prepare/encode.h"

#include <algorithm>
#include <vector>

#include "data/prepare/documents.h"
#include "data/prepare/parts.h"
#include "data/prepare/progress.h"
#include "data/prepare/text_hash.h"
#include "data/prepare/workers.h"

namespace cadre::data {
namespace {

class Encoder final : public DocumentSink {
 public:
  Encoder(const Work& work, const Choices& choices, const Tokenizer& tokenizer, int64_t unit)
      : work_(work),
        tokenizer_(tokenizer),
        unit_(unit),
        choices_(choices.of_unit(unit)),
        records_(work.scan_part(unit)),
        tokens_(work.token_part(unit)),
        lengths_(work.length_part(unit)) {}

  bool has_kept() const { return std::ranges::any_of(choices_, is_kept); }

  void document(const Document& document) override {
    DocRecord record;
    if (!records_.next(record)) changed();
    if (!is_kept(choices_[next_++])) return;
    if (record.bytes != document.text.size() || record.hash != hash_text(document.text)) changed();
    ids_.clear();
    ids_.push_back(tokenizer_.bos());
    tokenizer_.encode(document.text, ids_);
    ids_.push_back(tokenizer_.eos());
    if (is_narrow(tokenizer_)) {
      narrow_.assign(ids_.begin(), ids_.end());
      tokens_.write(std::as_bytes(std::span(narrow_)));
    } else {
      tokens_.write(std::as_bytes(std::span(ids_)));
    }
    lengths_.put(static_cast<uint64_t>(ids_.size()));
    if (ids_.capacity() > kKeepTokens) {
      std::vector<int32_t>().swap(ids_);
      std::vector<uint16_t>().swap(narrow_);
    }
  }
  void problem(InputProblem, int, int64_t, std::string_view, std::string) override {}
  void slice_done(int, int64_t) override {}

  void finish(bool was_read) {
    if (was_read && next_ != choices_.size()) changed();
    tokens_.finish();
    lengths_.finish();
  }

 private:
  static constexpr size_t kKeepTokens = size_t(4) << 20;

  [[noreturn]] void changed() const {
    const Unit& unit = work_.inputs.units[unit_];
    fail(ExitCode::kData,
         "an input changed while it was prepared, between {} and {}; expected the same documents as in the "
         "scan. "
         "Run again when nothing writes to them",
         work_.inputs.files[unit.slices.front().file].path.string(),
         work_.inputs.files[unit.slices.back().file].path.string());
  }

  const Work& work_;
  const Tokenizer& tokenizer_;
  const int64_t unit_;
  const std::vector<Choice> choices_;
  PartStream<DocRecord> records_;
  PartWriter tokens_, lengths_;
  std::vector<int32_t> ids_;
  std::vector<uint16_t> narrow_;
  size_t next_ = 0;
};

}  // namespace

void encode(const Work& work, const Choices& choices, const Tokenizer& tokenizer) {
  Progress progress("encode", work.inputs.bytes / work.comm.size(), "MB", work.comm.rank() == 0);
  run_jobs(work.comm, work.threads, work.num_units(), "encode", [&](int64_t unit) {
    if (is_whole_part(work.token_part(unit)) && is_whole_part(work.length_part(unit))) {
      progress.add(work.inputs.units[unit].bytes);
      return;
    }
    Encoder encoder(work, choices, tokenizer, unit);
    const bool read = encoder.has_kept();
    if (read) {
      read_unit(
          work.inputs, work.inputs.units[unit], work.read, [&](uint64_t bytes) { progress.add(bytes); },
          encoder);
    } else {
      progress.add(work.inputs.units[unit].bytes);
    }
    encoder.finish(read);
  });
}

}  // namespace cadre::data
