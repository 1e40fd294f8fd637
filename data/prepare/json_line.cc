#include "data/prepare/json_line.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>

namespace cadre::data {
namespace {

constexpr int kMaxDepth = 256;

// Bytes that need attention inside a string: the quote, the backslash and control characters.
constexpr std::array<bool, 256> special_bytes() {
  std::array<bool, 256> special = {};
  for (int c = 0; c < 0x20; ++c) special[c] = true;
  special['"'] = special['\\'] = true;
  return special;
}
constexpr std::array<bool, 256> kSpecial = special_bytes();

void append_code(std::string& out, uint32_t code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 63)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += {static_cast<char>(0xc0 | code >> 6), tail(0)};
  } else if (code < 0x10000) {
    out += {static_cast<char>(0xe0 | code >> 12), tail(6), tail(0)};
  } else {
    out += {static_cast<char>(0xf0 | code >> 18), tail(12), tail(6), tail(0)};
  }
}

class Parser {
 public:
  explicit Parser(std::string_view line) : begin_(line.data()), p_(begin_), end_(begin_ + line.size()) {}

  std::string run(LineFields& fields) {
    blanks();
    if (!at('{')) {
      wrong("expected an object");
    } else if (object(0, &fields)) {
      blanks();
      if (p_ != end_) wrong("more text after the object");
    }
    return error_;
  }

 private:
  bool at(char c) const { return p_ < end_ && *p_ == c; }
  void blanks() {
    while (p_ < end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\n' || *p_ == '\r')) ++p_;
  }
  bool wrong(const char* what) {
    if (error_.empty()) error_ = fmt::format("{} at byte {}", what, p_ - begin_ + 1);
    return false;
  }

  static JsonField* wanted(LineFields& fields, const std::string& key) {
    for (JsonField* field : {&fields.text, &fields.domain, &fields.id}) {
      if (field->name == key) return field;
    }
    return nullptr;
  }

  // Stands on '{'. `fields` is null below the outermost object.
  bool object(int depth, LineFields* fields) {
    if (depth > kMaxDepth) return wrong("nested too deeply");
    ++p_;
    blanks();
    if (at('}')) return ++p_, true;
    for (;;) {
      if (!at('"')) return wrong("expected a key");
      key_.clear();
      if (!string(fields != nullptr ? &key_ : nullptr)) return false;
      blanks();
      if (!at(':')) return wrong("expected ':'");
      ++p_;
      blanks();
      JsonField* const field = fields != nullptr ? wanted(*fields, key_) : nullptr;
      if (!(field != nullptr ? field_value(*field, depth) : value(depth))) return false;
      blanks();
      if (at('}')) return ++p_, true;
      if (!at(',')) return wrong("expected ',' or '}'");
      ++p_;
      blanks();
    }
  }

  bool field_value(JsonField& field, int depth) {
    field.value.clear();
    if (at('"')) {
      field.type = JsonField::Type::kString;
      return string(&field.value);
    }
    const char* const start = p_;
    field.type = at('{') || at('[') || at('n') ? JsonField::Type::kOther : JsonField::Type::kScalar;
    if (!value(depth)) return false;
    if (field.type == JsonField::Type::kScalar) field.value.assign(start, p_);
    return true;
  }

  bool array(int depth) {
    if (depth > kMaxDepth) return wrong("nested too deeply");
    ++p_;
    blanks();
    if (at(']')) return ++p_, true;
    for (;;) {
      if (!value(depth)) return false;
      blanks();
      if (at(']')) return ++p_, true;
      if (!at(',')) return wrong("expected ',' or ']'");
      ++p_;
      blanks();
    }
  }

  bool value(int depth) {
    if (p_ == end_) return wrong("the line ends too early");
    switch (*p_) {
      case '{':
        return object(depth + 1, nullptr);
      case '[':
        return array(depth + 1);
      case '"':
        return string(nullptr);
      case 't':
        return word("true");
      case 'f':
        return word("false");
      case 'n':
        return word("null");
      default:
        return number();
    }
  }

  bool word(std::string_view expected) {
    if (!std::string_view(p_, end_ - p_).starts_with(expected)) return wrong("expected a value");
    p_ += expected.size();
    return true;
  }

  bool digits() {
    const char* const start = p_;
    while (p_ < end_ && *p_ >= '0' && *p_ <= '9') ++p_;
    return p_ > start || wrong("expected a value");
  }
  bool number() {
    if (at('-')) ++p_;
    if (at('0')) {
      ++p_;
    } else if (!digits()) {
      return false;
    }
    if (at('.') && (++p_, !digits())) return false;
    if (at('e') || at('E')) {
      ++p_;
      if (at('+') || at('-')) ++p_;
      if (!digits()) return false;
    }
    return true;
  }

  // Stands on '"'. Appends to out unless that is null.
  bool string(std::string* out) {
    ++p_;
    for (;;) {
      const char* const start = p_;
      while (p_ < end_ && !kSpecial[static_cast<uint8_t>(*p_)]) ++p_;
      if (out != nullptr) out->append(start, p_);
      if (p_ == end_) return wrong("the line ends inside a string");
      if (*p_ == '"') return ++p_, true;
      if (*p_ != '\\') return wrong("a control character inside a string");
      if (!escape(out)) return false;
    }
  }

  bool escape(std::string* out) {
    ++p_;
    if (p_ == end_) return wrong("the line ends inside a string");
    constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    if (*p_ == 'u') {
      ++p_;
      return unicode_escape(out);
    }
    const size_t index = kNames.find(*p_);
    if (index == std::string_view::npos) return wrong("unknown escape");
    ++p_;
    if (out != nullptr) out->push_back(kValues[index]);
    return true;
  }

  bool hex4(uint32_t& code) {
    code = 0;
    for (int i = 0; i < 4; ++i, ++p_) {
      if (p_ == end_) return wrong("the line ends inside a string");
      const char c = *p_;
      const bool digit = c >= '0' && c <= '9', lower = c >= 'a' && c <= 'f', upper = c >= 'A' && c <= 'F';
      if (!digit && !lower && !upper) return wrong("expected four hexadecimal digits");
      code = code << 4 | static_cast<uint32_t>(digit ? c - '0' : lower ? c - 'a' + 10 : c - 'A' + 10);
    }
    return true;
  }

  bool unicode_escape(std::string* out) {
    uint32_t code = 0;
    if (!hex4(code)) return false;
    if (code >= 0xd800 && code < 0xdc00 && std::string_view(p_, end_ - p_).starts_with("\\u")) {
      const char* const before = p_;
      p_ += 2;
      uint32_t low = 0;
      if (!hex4(low)) return false;
      if (low >= 0xdc00 && low < 0xe000) {
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      } else {
        p_ = before;
      }
    }
    if (out != nullptr) append_code(*out, code);
    return true;
  }

  const char* const begin_;
  const char* p_;
  const char* const end_;
  std::string key_, error_;
};

}  // namespace

std::string parse_json_line(std::string_view line, LineFields& fields) {
  for (JsonField* field : {&fields.text, &fields.domain, &fields.id}) field->type = JsonField::Type::kAbsent;
  return Parser(line).run(fields);
}

}  // namespace cadre::data
