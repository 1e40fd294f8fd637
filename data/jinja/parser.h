// From a template's text to its tree.
#pragma once

#include <string>
#include <string_view>

#include "data/jinja/ast.h"
#include "data/jinja/lexer.h"

namespace cadre::data::jinja {

// Throws Error(kData), naming `where`, the line, and what is wrong or not supported.
Block parse_template(std::string_view source, const LexerOptions& options, const std::string& where);

}  // namespace cadre::data::jinja
