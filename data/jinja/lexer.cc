#include "data/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "data/jinja/literals.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

constexpr size_t kMaxTokens = 1000;  // of one tag; its tree may be as deep

bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
}

// Jinja2 counts every kind of line end as one newline.
std::string with_newlines(std::string_view source, bool keep_last) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!keep_last && out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  Lexer(std::string source, const LexerOptions& options, const std::string& where)
      : source_(std::move(source)), options_(options), where_(where) {}

  std::vector<Segment> run() {
    while (at_ < source_.size()) {
      const size_t tag = find_tag();
      std::string text = source_.substr(at_, tag - at_);
      if (tag < source_.size()) strip_before(text, tag);
      add_text(std::move(text));
      at_ = tag;
      if (tag < source_.size()) read_tag();
    }
    return std::move(segments_);
  }

 private:
  size_t find_tag() const {
    for (size_t at = source_.find('{', at_); at != std::string::npos; at = source_.find('{', at + 1)) {
      if (at + 1 < source_.size() && std::string_view("{%#").find(source_[at + 1]) != std::string_view::npos)
        return at;
    }
    return source_.size();
  }

  char sign_at(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : ' ';
  }

  void strip_before(std::string& text, size_t tag) const {
    const char sign = sign_at(tag + 2);
    if (sign == '-') {
      while (!text.empty() && is_blank(text.back())) text.pop_back();
    } else if (sign != '+' && options_.lstrip_blocks && source_[tag + 1] != '{') {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == std::string::npos ? 0 : newline + 1;
      if ((line > 0 || line_starts_) &&
          std::all_of(text.begin() + static_cast<ptrdiff_t>(line), text.end(), is_blank))
        text.resize(line);
    }
  }

  void add_text(std::string text) {
    if (!text.empty()) segments_.push_back({Segment::Kind::kText, std::move(text), {}, line()});
  }

  int line() const {
    return 1 +
           static_cast<int>(std::count(source_.begin(), source_.begin() + static_cast<ptrdiff_t>(at_), '\n'));
  }

  [[noreturn]] void refuse(std::string_view what) const {
    fail(ExitCode::kData, "{}, line {}: {}", where_, line(), what);
  }

  void read_tag() {
    const size_t begin = at_;
    const char kind = source_[at_ + 1];
    Segment segment{kind == '{' ? Segment::Kind::kOutput : Segment::Kind::kBlock, "", {}, line()};
    at_ += 2;
    if (sign_at(at_) != ' ') ++at_;
    if (kind == '#') {
      const size_t end = source_.find("#}", at_);
      if (end == std::string::npos) refuse("a comment without its end #}");
      at_ = end > begin + 2 && sign_at(end - 1) != ' ' ? end - 1 : end;
      end_tag("#}");
    } else {
      const char* const close = kind == '{' ? "}}" : "%}";
      int depth = 0;
      while (!(depth == 0 && end_tag(close))) {
        Token token;
        if (!read_token(token)) continue;
        if (token.kind == Token::Kind::kOperator) {
          const char c = token.text[0];
          depth += (c == '(' || c == '[' || c == '{') - (c == ')' || c == ']' || c == '}');
          if (depth < 0) refuse("a bracket closes that none opened");
        }
        segment.tokens.push_back(std::move(token));
        if (segment.tokens.size() > kMaxTokens)
          refuse(fmt::format("a tag of more than {} tokens", kMaxTokens));
      }
      segment.tokens.emplace_back();
      segments_.push_back(std::move(segment));
    }
    line_starts_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  // Takes the tag's end, with its sign and the blanks that it removes, if it stands here.
  bool end_tag(std::string_view close) {
    const std::string_view rest = std::string_view(source_).substr(at_);
    const char sign = sign_at(at_);
    if (sign == '-' && rest.substr(1).starts_with(close)) {
      at_ += 1 + close.size();
      while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
      return true;
    }
    const bool keep = sign == '+' && close != "}}" && rest.substr(1).starts_with(close);
    if (!keep && !rest.starts_with(close)) return false;
    at_ += close.size() + (keep ? 1 : 0);
    if (!keep && options_.trim_blocks && close != "}}" && at_ < source_.size() && source_[at_] == '\n') ++at_;
    return true;
  }

  // False for blanks.
  bool read_token(Token& token) {
    if (at_ >= source_.size()) refuse("a tag without its end");
    const char c = source_[at_];
    if (is_blank(c)) {
      ++at_;
      return false;
    }
    if (c == '"' || c == '\'') {
      const size_t end = end_of_literal(source_, at_);
      if (end == std::string::npos) refuse("a text without its closing quote");
      token = {Token::Kind::kText,
               unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 2), where_)};
      at_ = end;
    } else if (std::isdigit(static_cast<unsigned char>(c))) {
      read_number(token);
    } else if (is_name(c)) {
      const size_t begin = at_;
      while (at_ < source_.size() && is_name(source_[at_])) ++at_;
      token = {Token::Kind::kName, source_.substr(begin, at_ - begin)};
    } else {
      read_operator(token);
    }
    return true;
  }

  void read_number(Token& token) {
    const size_t begin = at_;
    const auto digits = [&] {
      while (at_ < source_.size() && std::isdigit(static_cast<unsigned char>(source_[at_]))) ++at_;
    };
    digits();
    token.kind = Token::Kind::kInteger;
    if (at_ + 1 < source_.size() && source_[at_] == '.' &&
        std::isdigit(static_cast<unsigned char>(source_[at_ + 1]))) {
      token.kind = Token::Kind::kFloat;
      ++at_;
      digits();
    }
    if (at_ < source_.size() && is_name(source_[at_]))
      refuse("a number written in a way that is not supported");
    token.text = source_.substr(begin, at_ - begin);
    if (token.text.size() > 18) refuse(fmt::format("the number {} is too long", token.text));
  }

  void read_operator(Token& token) {
    constexpr std::array<std::string_view, 6> kDouble = {"//", "**", "==", "!=", ">=", "<="};
    const std::string_view rest = std::string_view(source_).substr(at_);
    size_t length = 1;
    for (const std::string_view known : kDouble)
      if (rest.starts_with(known)) length = 2;
    if (length == 1 && std::string_view("+-*/%~[](){}<>=.:|,").find(rest[0]) == std::string_view::npos)
      refuse(fmt::format("'{}' means nothing in a template", rest[0]));
    token = {Token::Kind::kOperator, std::string(rest.substr(0, length))};
    at_ += length;
  }

  const std::string source_;
  const LexerOptions options_;
  const std::string where_;
  std::vector<Segment> segments_;
  size_t at_ = 0;
  bool line_starts_ = true;
};

}  // namespace

std::vector<Segment> cut_template(std::string_view source, const LexerOptions& options,
                                  const std::string& where) {
  return Lexer(with_newlines(source, options.keep_trailing_newline), options, where).run();
}

}  // namespace cadre::data::jinja
