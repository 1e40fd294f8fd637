#include "data/tokenizers/sentencepiece_model.h"

#include <cstdint>
#include <string_view>

#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

// Field numbers of ModelProto and NormalizerSpec.
constexpr int kNormalizer = 3, kSelfTest = 4, kDenormalizer = 5;
constexpr int kCharsMap = 2, kDummyPrefix = 3, kExtraBlanks = 4, kEscapeBlanks = 5;
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;  // wire types

struct Field {
  int number = 0, type = 0;
  uint64_t value = 0;      // of a varint
  std::string_view bytes;  // of kBytes
  std::string_view whole;  // tag included
};

// Walks over the fields of one message.
class Fields {
 public:
  Fields(std::string_view message, const std::string& where) : rest_(message), where_(where) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::string_view start = rest_;
    const uint64_t tag = varint();
    field = Field{static_cast<int>(tag >> 3), static_cast<int>(tag & 7), 0, {}, {}};
    switch (field.type) {
      case kVarint:
        field.value = varint();
        break;
      case kFixed64:
        take(8);
        break;
      case kFixed32:
        take(4);
        break;
      case kBytes:
        field.bytes = take(varint());
        break;
      default:
        broken();
    }
    field.whole = start.substr(0, start.size() - rest_.size());
    return true;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    broken();
  }
  std::string_view take(uint64_t size) {
    if (size > rest_.size()) broken();
    const std::string_view part = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return part;
  }
  [[noreturn]] void broken() const {
    fail(ExitCode::kData, "{}: not a SentencePiece model. Give a .model file or one that cadre wrote",
         where_);
  }
  std::string_view rest_;
  const std::string& where_;
};

std::string describe(std::string_view normalizer, const std::string& where) {
  bool has_map = false, dummy_prefix = true, extra_blanks = true, escapes = true;  // the format's defaults
  Field field;
  for (Fields fields(normalizer, where); fields.next(field);) {
    if (field.number == kCharsMap) has_map = !field.bytes.empty();
    if (field.number == kDummyPrefix) dummy_prefix = field.value != 0;
    if (field.number == kExtraBlanks) extra_blanks = field.value != 0;
    if (field.number == kEscapeBlanks) escapes = field.value != 0;
  }
  require(escapes, ExitCode::kData,
          "{}: the model does not write blanks as U+2581 (escape_whitespaces false); "
          "expected one that does. Train a tokenizer with `cadre prepare`",
          where);
  std::string words;
  const auto add = [&](bool is, const char* text) {
    if (is) words += (words.empty() ? "" : ", ") + std::string(text);
  };
  add(has_map, "maps characters");
  add(dummy_prefix, "adds a blank in front");
  add(extra_blanks, "removes repeated blanks");
  return words;
}

std::string identity_normalizer() {
  const std::string name = "identity";
  std::string spec = {char(1 << 3 | kBytes), char(name.size())};
  spec += name;
  for (const int flag : {kDummyPrefix, kExtraBlanks}) spec += {char(flag << 3 | kVarint), 0};
  return std::string{char(kNormalizer << 3 | kBytes), char(spec.size())} + spec;
}

}  // namespace

IdentityModel with_identity_normalizer(const std::string& model, const std::string& where) {
  IdentityModel out;
  bool found = false;
  Field field;
  for (Fields fields(model, where); fields.next(field);) {
    if (field.number == kNormalizer) {
      out.replaced = describe(field.bytes, where);
      found = true;
      if (out.replaced.empty()) out.model += field.whole;
    } else if (field.number != kSelfTest && field.number != kDenormalizer) {
      // The self-test holds ids made with the old normaliser; SentencePiece would refuse to load the model.
      out.model += field.whole;
    }
  }
  if (!found) out.replaced = describe("", where);
  if (!out.replaced.empty()) {
    out.model += identity_normalizer();
  } else {
    out.model = model;
  }
  return out;
}

}  // namespace cadre::data
