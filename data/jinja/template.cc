#include "data/jinja/template.h"

#include "data/jinja/interpreter.h"
#include "data/jinja/parser.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

template <class Run>
auto with_place(const std::string& where, Interpreter& interpreter, const Run& run) {
  try {
    return run(interpreter);
  } catch (const Error& error) {
    fail(error.code(), "{}, line {}: {}", where, interpreter.line(), error.what());
  }
}

}  // namespace

Template::Template(std::string_view source, const TemplateOptions& options, std::string where)
    : where_(std::move(where)),
      strict_(options.strict_undefined),
      block_(parse_template(source, options.lexer, where_)) {}

Text Template::render(const Map& variables) const {
  Interpreter interpreter(variables, strict_);
  return with_place(where_, interpreter, [&](Interpreter& i) { return i.run(block_); });
}

std::optional<Value> Template::value(const Map& variables) const {
  if (block_.size() != 1 || block_[0].kind != Statement::Kind::kOutput) return std::nullopt;
  Interpreter interpreter(variables, strict_);
  return with_place(where_, interpreter,
                    [&](Interpreter& i) { return std::optional(i.evaluate(*block_[0].value)); });
}

}  // namespace cadre::data::jinja
