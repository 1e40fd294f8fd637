// A parsed template: expressions and statements as trees.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/jinja/value.h"

namespace cadre::data::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,
    kName,         // name
    kList,         // parts
    kMap,          // keys and values in turn
    kAttribute,    // parts[0].name
    kItem,         // parts[0][parts[1]]
    kSlice,        // parts[0][parts[1]:parts[2]:parts[3]], each may be missing
    kCall,         // parts[0](parts[1..], named)
    kFilter,       // parts[0] | name(parts[1..], named)
    kTest,         // parts[0] is name(parts[1..])
    kUnary,        // name ("-", "+", "not") parts[0]
    kBinary,       // parts[0] name parts[1]
    kCompare,      // parts[0] operators[0] parts[1] operators[1] parts[2] ...
    kConditional,  // parts[0] if parts[1] else parts[2], which may be missing
  };
  Kind kind;
  int line = 0;
  std::string name = {};
  Value literal = {};
  std::vector<ExpressionPtr> parts = {};
  std::vector<std::pair<std::string, ExpressionPtr>> named = {};
  std::vector<std::string> operators = {};
};

struct Statement;
using Block = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,        // text
    kOutput,      // value
    kIf,          // value, body, otherwise
    kFor,         // names in value if condition: body, else otherwise
    kSet,         // names = value, or names[0].attribute = value
    kCapture,     // names[0] = what body writes
    kMacro,       // name(names = defaults): body
    kGeneration,  // body, which the model wrote
    kBreak,
    kContinue,
  };
  Kind kind;
  int line = 0;
  Text text = {};
  std::string name = {}, attribute = {};
  std::vector<std::string> names = {};
  ExpressionPtr value = {}, condition = {};
  std::vector<ExpressionPtr> defaults = {};  // of the last names
  Block body = {}, otherwise = {};
};

}  // namespace cadre::data::jinja
