#include "data/jinja/expression_parser.h"

#include <algorithm>
#include <array>

#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxDepth = 100;  // of brackets and signs; the parser calls itself

// From the loosest to the tightest; between the second and the third stand `not` and comparisons.
const std::array<std::vector<std::string_view>, 6> kLevels = {
    {{"or"}, {"and"}, {"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}}};
constexpr size_t kArithmetic = 2;

struct Depth {
  int& depth;
  explicit Depth(int& d) : depth(d) { ++depth; }
  ~Depth() { --depth; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;
};

}  // namespace

const Token& ExpressionParser::peek(size_t ahead) const {
  return segment_.tokens[std::min(at_ + ahead, segment_.tokens.size() - 1)];
}

bool ExpressionParser::sees(std::string_view text) const {
  const Token& token = peek();
  return (token.kind == Token::Kind::kOperator || token.kind == Token::Kind::kName) && token.text == text;
}

bool ExpressionParser::take(std::string_view text) {
  const bool found = sees(text);
  if (found) ++at_;
  return found;
}

void ExpressionParser::need(std::string_view text) {
  if (!take(text)) refuse(fmt::format("found '{}', expected '{}'", at_end() ? "the end" : peek().text, text));
}

std::string ExpressionParser::need_name() {
  if (peek().kind != Token::Kind::kName) refuse(fmt::format("found '{}', expected a name", peek().text));
  return segment_.tokens[at_++].text;
}

void ExpressionParser::need_end() {
  if (!at_end()) refuse(fmt::format("found '{}', expected the end of the tag", peek().text));
}

void ExpressionParser::refuse(const std::string& what) const {
  fail(ExitCode::kData, "{}, line {}: {}", where_, line(), what);
}

ExpressionPtr ExpressionParser::make(Kind kind, std::string name) const {
  return std::make_unique<Expression>(Expression{.kind = kind, .line = line(), .name = std::move(name)});
}

ExpressionPtr ExpressionParser::parse() {
  ExpressionPtr value = parse_no_if();
  while (take("if")) {
    ExpressionPtr choice = make(Kind::kConditional);
    choice->parts.push_back(std::move(value));
    choice->parts.push_back(parse_no_if());
    choice->parts.push_back(take("else") ? parse() : nullptr);
    value = std::move(choice);
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_no_if() {
  return parse_binary(0);
}

ExpressionPtr ExpressionParser::parse_or_tuple() {
  ExpressionPtr first = parse();
  if (!sees(",")) return first;
  ExpressionPtr tuple = make(Kind::kList);
  tuple->parts.push_back(std::move(first));
  while (take(",") && !at_end()) tuple->parts.push_back(parse());
  return tuple;
}

ExpressionPtr ExpressionParser::parse_binary(size_t level) {
  const auto operand = [&] {
    if (level + 1 == kArithmetic) return parse_not();
    return level + 1 == kLevels.size() ? parse_unary(true) : parse_binary(level + 1);
  };
  ExpressionPtr left = operand();
  while (true) {
    const auto found =
        std::ranges::find_if(kLevels[level], [&](std::string_view name) { return sees(name); });
    if (found == kLevels[level].end()) return left;
    take(*found);
    ExpressionPtr both = make(Kind::kBinary, std::string(*found));
    both->parts.push_back(std::move(left));
    both->parts.push_back(operand());
    left = std::move(both);
  }
}

ExpressionPtr ExpressionParser::parse_not() {
  const Depth depth(depth_);
  if (depth_ > kMaxDepth) refuse("an expression nested too deeply");
  if (!take("not")) return parse_compare();
  ExpressionPtr negation = make(Kind::kUnary, "not");
  negation->parts.push_back(parse_not());
  return negation;
}

ExpressionPtr ExpressionParser::parse_compare() {
  ExpressionPtr chain = make(Kind::kCompare);
  chain->parts.push_back(parse_binary(kArithmetic));
  while (true) {
    std::string name;
    for (const char* known : {"==", "!=", "<", "<=", ">", ">=", "in"})
      if (name.empty() && take(known)) name = known;
    if (name.empty() && sees("not") && peek(1).kind == Token::Kind::kName && peek(1).text == "in") {
      at_ += 2;
      name = "not in";
    }
    if (name.empty()) break;
    chain->operators.push_back(name);
    chain->parts.push_back(parse_binary(kArithmetic));
  }
  return chain->operators.empty() ? std::move(chain->parts[0]) : std::move(chain);
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Depth depth(depth_);
  if (depth_ > kMaxDepth) refuse("an expression nested too deeply");
  ExpressionPtr value;
  if (sees("-") || sees("+")) {
    value = make(Kind::kUnary, peek().text);
    ++at_;
    value->parts.push_back(parse_unary(false));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::parse_primary() {
  if (take("(")) return parse_list(")");
  if (take("[")) return parse_list("]");
  if (take("{")) return parse_map();
  const Token& token = peek();
  if (token.kind == Token::Kind::kOperator || token.kind == Token::Kind::kEnd)
    refuse(fmt::format("found '{}', expected a value", at_end() ? "the end" : token.text));
  if (token.kind != Token::Kind::kName) return parse_literal();
  ++at_;
  ExpressionPtr literal = make(Kind::kLiteral);
  if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
    literal->literal = Value(token.text == "true" || token.text == "True");
  } else if (token.text == "none" || token.text == "None") {
    literal->literal = None{};
  } else {
    return make(Kind::kName, token.text);
  }
  return literal;
}

ExpressionPtr ExpressionParser::parse_literal() {
  ExpressionPtr literal = make(Kind::kLiteral);
  const Token token = peek();
  ++at_;
  if (token.kind == Token::Kind::kInteger) {
    literal->literal = int64_t(std::stoll(token.text));
  } else if (token.kind == Token::Kind::kFloat) {
    literal->literal = std::stod(token.text);
  } else {
    std::string text = token.text;  // texts side by side are one
    while (peek().kind == Token::Kind::kText) text += segment_.tokens[at_++].text;
    literal->literal = Value(std::move(text));
  }
  return literal;
}

// A value in brackets, or a tuple; a list.
ExpressionPtr ExpressionParser::parse_list(std::string_view close) {
  ExpressionPtr list = make(Kind::kList);
  bool comma = false;
  while (!take(close)) {
    list->parts.push_back(parse());
    comma = take(",");
    if (!comma && !sees(close)) need(close);
    if (!comma) {
      need(close);
      break;
    }
  }
  if (close == ")" && list->parts.size() == 1 && !comma) return std::move(list->parts[0]);
  return list;
}

ExpressionPtr ExpressionParser::parse_map() {
  ExpressionPtr map = make(Kind::kMap);
  while (!take("}")) {
    map->parts.push_back(parse());
    need(":");
    map->parts.push_back(parse());
    if (!take(",")) {
      need("}");
      break;
    }
  }
  return map;
}

}  // namespace cadre::data::jinja
