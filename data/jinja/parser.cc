#include "data/jinja/parser.h"

#include <algorithm>
#include <utility>

#include "data/jinja/expression_parser.h"
#include "parallel/base/errors.h"

namespace cadre::data::jinja {
namespace {

using Kind = Statement::Kind;

constexpr int kMaxDepth = 100;  // of blocks in blocks

class Parser {
 public:
  Parser(std::vector<Segment> segments, const std::string& where)
      : segments_(std::move(segments)), where_(where) {}

  Block run() { return parse_block({}); }

 private:
  // Statements up to a tag that starts with one of `ends`, which is left to the caller; with none, to the end
  // of the template.
  Block parse_block(const std::vector<std::string_view>& ends) {
    Block block;
    require(++depth_ <= kMaxDepth, ExitCode::kData, "{}: blocks are nested too deeply", where_);
    for (; at_ < segments_.size(); ++at_) {
      const Segment& segment = segments_[at_];
      if (segment.kind == Segment::Kind::kText) {
        block.push_back({.kind = Kind::kText, .line = segment.line, .text = segment.text});
      } else if (segment.kind == Segment::Kind::kOutput) {
        ExpressionParser tag(segment, where_);
        Statement output{.kind = Kind::kOutput, .line = segment.line};
        output.value = tag.parse_or_tuple();
        tag.need_end();
        block.push_back(std::move(output));
      } else if (std::ranges::find(ends, segment.tokens[0].text) != ends.end()) {
        --depth_;
        return block;
      } else {
        block.push_back(parse_tag());
      }
    }
    if (!ends.empty()) fail(ExitCode::kData, "{}: the template ends before '{}'", where_, ends.back());
    --depth_;
    return block;
  }

  // Leaves at_ at the statement's last tag.
  Statement parse_tag() {
    const Segment& segment = segments_[at_];
    ExpressionParser tag(segment, where_);
    const std::string word = tag.need_name();
    if (word == "if") return parse_if(tag);
    if (word == "for") return parse_for(tag);
    if (word == "set") return parse_set(tag);
    if (word == "macro") return parse_macro(tag);
    Statement statement{.kind = Kind::kGeneration, .line = segment.line};
    if (word == "generation") {
      tag.need_end();
      statement.body = parse_body("endgeneration");
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) tag.refuse(fmt::format("'{}' outside of a loop", word));
      statement.kind = word == "break" ? Kind::kBreak : Kind::kContinue;
      tag.need_end();
    } else {
      tag.refuse(fmt::format(
          "the tag '{}' is not supported; known are if, for, set, macro, generation, break, continue", word));
    }
    return statement;
  }

  Block parse_body(std::string_view end) {
    ++at_;
    Block body = parse_block({end});
    finish(end);
    return body;
  }

  // The tag at at_ is `end` and nothing more; some allow the name of what ends.
  void finish(std::string_view end) {
    ExpressionParser tag(segments_[at_], where_);
    tag.need(end);
    if (end == "endmacro" && !tag.at_end()) tag.need_name();
    tag.need_end();
  }

  Statement parse_if(ExpressionParser& tag) {
    Statement statement{.kind = Kind::kIf, .line = tag.line()};
    statement.value = tag.parse_or_tuple();
    tag.need_end();
    ++at_;
    statement.body = parse_block({"elif", "else", "endif"});
    ExpressionParser next(segments_[at_], where_);
    const std::string word = next.need_name();
    if (word == "elif") {
      require(++depth_ <= kMaxDepth, ExitCode::kData, "{}: too many branches of one 'if'", where_);
      statement.otherwise.push_back(parse_if(next));  // takes the endif
      --depth_;
      return statement;
    }
    next.need_end();
    if (word == "else") statement.otherwise = parse_body("endif");
    return statement;
  }

  Statement parse_for(ExpressionParser& tag) {
    Statement statement{.kind = Kind::kFor, .line = tag.line()};
    statement.names = parse_names(tag);
    tag.need("in");
    statement.value = tag.parse_no_if();
    if (tag.take("if")) statement.condition = tag.parse();
    if (tag.sees("recursive")) tag.refuse("recursive loops are not supported");
    tag.need_end();
    ++at_;
    ++loops_;
    statement.body = parse_block({"else", "endfor"});
    --loops_;
    ExpressionParser next(segments_[at_], where_);
    const bool otherwise = next.need_name() == "else";
    next.need_end();
    if (otherwise) statement.otherwise = parse_body("endfor");
    return statement;
  }

  static std::vector<std::string> parse_names(ExpressionParser& tag) {
    std::vector<std::string> names;
    const bool bracket = tag.take("(");
    do {
      names.push_back(tag.need_name());
    } while (tag.take(","));
    if (bracket) tag.need(")");
    return names;
  }

  Statement parse_set(ExpressionParser& tag) {
    Statement statement{.kind = Kind::kSet, .line = tag.line()};
    statement.names = parse_names(tag);
    if (statement.names.size() == 1 && tag.take(".")) statement.attribute = tag.need_name();
    if (tag.take("=")) {
      statement.value = tag.parse_or_tuple();
      tag.need_end();
      return statement;
    }
    if (!tag.at_end() || statement.names.size() != 1 || !statement.attribute.empty())
      tag.refuse("a 'set' without '=', or with filters on its block, which are not supported");
    statement.kind = Kind::kCapture;
    statement.body = parse_body("endset");
    return statement;
  }

  Statement parse_macro(ExpressionParser& tag) {
    Statement statement{.kind = Kind::kMacro, .line = tag.line()};
    if (depth_of_scopes() > 0) tag.refuse("macros inside of loops and macros are not supported");
    statement.name = tag.need_name();
    tag.need("(");
    while (!tag.take(")")) {
      statement.names.push_back(tag.need_name());
      if (tag.take("=")) {
        statement.defaults.push_back(tag.parse());
      } else if (!statement.defaults.empty()) {
        tag.refuse("an argument without a default behind one with a default");
      }
      if (!tag.take(",") && !tag.sees(")")) tag.need(")");
    }
    tag.need_end();
    ++macros_;
    const int loops = std::exchange(loops_, 0);
    statement.body = parse_body("endmacro");
    loops_ = loops;
    --macros_;
    return statement;
  }

  int depth_of_scopes() const { return loops_ + macros_; }

  const std::vector<Segment> segments_;
  const std::string& where_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0, macros_ = 0;
};

}  // namespace

Block parse_template(std::string_view source, const LexerOptions& options, const std::string& where) {
  return Parser(cut_template(source, options, where), where).run();
}

}  // namespace cadre::data::jinja
