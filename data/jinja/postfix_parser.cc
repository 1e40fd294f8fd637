// What may stand behind a value: attributes, subscripts, calls, filters and tests.
#include <utility>

#include "data/jinja/expression_parser.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

using Kind = Expression::Kind;

}  // namespace

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr target) {
  while (true) {
    if (take(".")) {
      ExpressionPtr attribute = make(Kind::kAttribute);
      if (peek().kind == Token::Kind::kInteger) {
        attribute->kind = Kind::kItem;
        attribute->parts.push_back(std::move(target));
        attribute->parts.push_back(parse_literal());
      } else {
        attribute->name = need_name();
        attribute->parts.push_back(std::move(target));
      }
      target = std::move(attribute);
    } else if (take("[")) {
      target = parse_subscript(std::move(target));
    } else if (take("(")) {
      target = parse_call(std::move(target));
    } else {
      return target;
    }
  }
}

// Behind the opening bracket, as are the next.
ExpressionPtr ExpressionParser::parse_call(ExpressionPtr target) {
  ExpressionPtr call = make(Kind::kCall);
  call->parts.push_back(std::move(target));
  parse_arguments(*call);
  return call;
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr target) {
  ExpressionPtr item = make(Kind::kItem);
  item->parts.push_back(std::move(target));
  item->parts.push_back(sees(":") ? nullptr : parse());
  if (sees(":")) {
    item->kind = Kind::kSlice;
    for (int i = 0; i < 2; ++i)
      item->parts.push_back(take(":") && !sees(":") && !sees("]") ? parse() : nullptr);
  }
  need("]");
  return item;
}

void ExpressionParser::parse_arguments(Expression& call) {
  while (!take(")")) {
    if (sees("*") || sees("**")) refuse("arguments handed on by * are not supported");
    if (peek().kind == Token::Kind::kName && peek(1).kind == Token::Kind::kOperator && peek(1).text == "=") {
      std::string name = need_name();
      need("=");
      call.named.emplace_back(std::move(name), parse());
    } else {
      if (!call.named.empty()) refuse("an argument without a name behind one with a name");
      call.parts.push_back(parse());
    }
    if (!take(",")) {
      need(")");
      return;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr target) {
  while (true) {
    if (take("|")) {
      ExpressionPtr filter = make(Kind::kFilter, need_name());
      filter->parts.push_back(std::move(target));
      if (take("(")) parse_arguments(*filter);
      target = std::move(filter);
    } else if (take("is")) {
      target = parse_test(std::move(target));
    } else if (take("(")) {
      target = parse_call(std::move(target));
    } else {
      return target;
    }
  }
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr target) {
  const bool negated = take("not");
  ExpressionPtr test = make(Kind::kTest, need_name());
  test->parts.push_back(std::move(target));
  const Token::Kind next = peek().kind;
  const bool word = next == Token::Kind::kName && !sees("else") && !sees("or") && !sees("and") &&
                    !sees("if") && !sees("not") && !sees("in");
  if (take("(")) {
    parse_arguments(*test);
  } else if (sees("is")) {
    refuse("tests cannot be chained");
  } else if (word || next == Token::Kind::kText || next == Token::Kind::kInteger ||
             next == Token::Kind::kFloat || sees("[") || sees("{")) {
    test->parts.push_back(parse_postfix(parse_primary()));
  }
  if (!negated) return test;
  ExpressionPtr negation = make(Kind::kUnary, "not");
  negation->parts.push_back(std::move(test));
  return negation;
}

}  // namespace cadre::data::jinja
