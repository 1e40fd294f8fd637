// Templates in the part of Jinja2's language that chat templates and evaluation tasks use: outputs, if, for, set,
// macro, break, continue, generation; the expressions, filters, tests and methods that the files beside this
// one list. What is not among them is refused by name, never passed over. Agrees with Jinja2 3.1 in
// Python's sense of values; the tests compare the two.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "data/jinja/ast.h"
#include "data/jinja/lexer.h"

namespace cadre::data::jinja {

struct TemplateOptions {
  LexerOptions lexer;
  bool strict_undefined = false;  // writing what is undefined is an error
};

class Template {
 public:
  // `where` names the source in messages. Throws Error(kData), with the line, as all of these do.
  Template(std::string_view source, const TemplateOptions& options, std::string where);

  Text render(const Map& variables) const;
  // The value of a template that is one output and nothing else, such as a list; nothing for other templates.
  std::optional<Value> value(const Map& variables) const;

 private:
  std::string where_;
  bool strict_;
  Block block_;
};

}  // namespace cadre::data::jinja
