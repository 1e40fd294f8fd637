// Cuts a template into plain text, outputs {{ }} and blocks {% %}, and the latter two into tokens. Blanks are
// removed here, by the signs in the tags and by the options, as Jinja2's own lexer does.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cadre::data::jinja {

struct LexerOptions {
  bool trim_blocks = false;    // the newline behind a block goes
  bool lstrip_blocks = false;  // and blanks before one, when nothing else stands before it in the line
  bool keep_trailing_newline = false;  // else one at the template's end goes
};

struct Token {
  enum class Kind { kName, kText, kInteger, kFloat, kOperator, kEnd };
  Kind kind = Kind::kEnd;
  std::string text;  // of kText: what it means, escapes resolved
};

struct Segment {
  enum class Kind { kText, kOutput, kBlock };
  Kind kind;
  std::string text;           // of kText
  std::vector<Token> tokens;  // of the others, kEnd last
  int line;
};

// Throws Error(kData), naming `where` and the line.
std::vector<Segment> cut_template(std::string_view source, const LexerOptions& options,
                                  const std::string& where);

}  // namespace cadre::data::jinja
