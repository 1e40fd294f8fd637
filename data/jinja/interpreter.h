// Runs a parsed template. Templates come from files that others wrote: steps, output and depth are bounded.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/jinja/ast.h"

namespace cadre::data::jinja {

class Interpreter {
 public:
  // `variables` are borrowed. With strict_undefined, writing what is undefined is an error.
  Interpreter(const Map& variables, bool strict_undefined)
      : variables_(variables), strict_(strict_undefined) {}

  // Throw Error(kData), for what the template does wrong or too much of, without the place; line() says where it was.
  Text run(const Block& block);
  Value evaluate(const Expression& expression);
  int line() const { return line_; }

 private:
  enum class Flow { kNext, kBreak, kContinue };
  // Names of a template, a macro, or one round of a loop.
  struct Scope {
    Scope* outer = nullptr;
    std::vector<std::pair<std::string, Value>> names = {};
    void set(const std::string& name, Value value);
  };

  Flow execute(const Block& block);
  Flow execute(const Statement& statement);
  Flow loop(const Statement& statement);
  void assign(const Statement& statement);
  void bind(const std::vector<std::string>& names, const Value& value);
  void define_macro(const Statement& statement);
  Text call_macro(const Statement& statement, const Arguments& arguments);
  Text capture(const Block& block);

  Value evaluate_kind(const Expression& expression);
  Value look_up(const std::string& name) const;
  Value unary(const Expression& expression);
  Value binary(const Expression& expression);
  Value comparison(const Expression& expression);
  Value call(const Expression& expression);
  Arguments arguments_of(const Expression& expression);
  Value optional_part(const Expression& expression, size_t i);
  void count_step(int line);

  const Map& variables_;
  const bool strict_;
  Scope root_;
  Scope* scope_ = &root_;
  Text* out_ = nullptr;
  int line_ = 0, macro_depth_ = 0;
  int64_t steps_ = 0;
};

}  // namespace cadre::data::jinja
