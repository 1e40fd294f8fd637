#include "data/tokenizers/bytes.h"

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

constexpr int kBos = 256, kEos = 257, kVocabSize = 258;
constexpr const char* kDefinition =
    "{\"kind\": \"bytes\", \"vocab_size\": 258, \"bos\": 256, \"eos\": 257}\n";

class ByteTokenizer final : public Tokenizer {
 public:
  std::string kind() const override { return "bytes"; }
  int vocab_size() const override { return kVocabSize; }
  int bos() const override { return kBos; }
  int eos() const override { return kEos; }
  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    const size_t before = out.size();
    out.resize(before + text.size());
    for (size_t i = 0; i < text.size(); ++i) out[before + i] = static_cast<uint8_t>(text[i]);
  }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      require(id >= 0 && id < kVocabSize, ExitCode::kData, "token {}, expected 0 to {}", id, kVocabSize - 1);
      if (id < kBos) text.push_back(static_cast<char>(id));
    }
    return text;
  }
  std::string definition() const override { return kDefinition; }
  std::string file_name() const override { return "tokenizer.bytes.json"; }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

std::unique_ptr<Tokenizer> read_byte_tokenizer(const std::string& definition, const std::string& where) {
  require(definition == kDefinition, ExitCode::kData, "{}: not a byte tokenizer; expected exactly {}", where,
          kDefinition);
  return make_byte_tokenizer();
}

}  // namespace cadre::data
