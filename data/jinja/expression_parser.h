// The expressions of one tag, in Jinja2's order of precedence.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/jinja/ast.h"
#include "data/jinja/lexer.h"

namespace cadre::data::jinja {

class ExpressionParser {
 public:
  // `segment` is borrowed.
  ExpressionParser(const Segment& segment, const std::string& where) : segment_(segment), where_(where) {}

  ExpressionPtr parse();           // with `a if b else c`
  ExpressionPtr parse_no_if();     // what a `for` goes through
  ExpressionPtr parse_or_tuple();  // `a, b` is a list

  const Token& peek(size_t ahead = 0) const;
  bool at_end() const { return peek().kind == Token::Kind::kEnd; }
  bool take(std::string_view text);        // an operator or a name
  void need(std::string_view text);        // the same, or an error
  bool sees(std::string_view text) const;  // without taking it
  std::string need_name();
  void need_end();
  int line() const { return segment_.line; }
  [[noreturn]] void refuse(const std::string& what) const;
  // The arguments behind an opening bracket that was taken, up to and with the closing one.
  void parse_arguments(Expression& call);

 private:
  ExpressionPtr make(Expression::Kind kind, std::string name = {}) const;
  ExpressionPtr parse_binary(size_t level);
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_literal();
  ExpressionPtr parse_list(std::string_view close);
  ExpressionPtr parse_map();
  ExpressionPtr parse_postfix(ExpressionPtr target);
  ExpressionPtr parse_call(ExpressionPtr target);
  ExpressionPtr parse_subscript(ExpressionPtr target);
  ExpressionPtr parse_filters(ExpressionPtr target);
  ExpressionPtr parse_test(ExpressionPtr target);

  const Segment& segment_;
  const std::string& where_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace cadre::data::jinja
