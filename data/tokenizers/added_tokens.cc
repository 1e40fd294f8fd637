#include "data/tokenizers/added_tokens.h"

#include <algorithm>
#include <utility>

#include "data/tokenizers/unicode.h"
#include "data/tokenizers/utf8.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

struct Character {
  uint32_t code_point;
  size_t length;  // 0: none there, or ill-formed
};

Character first_of(std::string_view text) {
  if (text.empty()) return {0, 0};
  const size_t length = utf8_length(text.data(), text.data() + text.size());
  return {length > 0 ? code_point(text.data(), length) : 0, length};
}

Character last_of(std::string_view text) {
  for (size_t length = 1; length <= std::min<size_t>(4, text.size()); ++length) {
    const Character c = first_of(text.substr(text.size() - length));
    if (c.length == length) return c;
  }
  return {0, 0};
}

bool is_word(const Character& c) {
  return c.length > 0 && data::is_word(c.code_point);
}
bool is_space(const Character& c) {
  return c.length > 0 && data::is_space(c.code_point);
}

size_t blanks_before(std::string_view text) {
  size_t size = text.size();
  for (Character c; is_space(c = last_of(text.substr(0, size)));) size -= c.length;
  return text.size() - size;
}

size_t blanks_at_start(std::string_view text) {
  size_t at = 0;
  for (Character c; is_space(c = first_of(text.substr(at)));) at += c.length;
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const std::vector<std::string>& forms,
                         const std::string& where)
    : tokens_(std::move(tokens)), nodes_(1), roots_(256, -1) {
  for (size_t t = 0; t < tokens_.size(); ++t) {
    int32_t node = 0;
    for (const char byte : forms[t]) {
      int32_t next = child(node, byte);
      if (next < 0) {
        next = static_cast<int32_t>(nodes_.size());
        nodes_.push_back({-1, nodes_[node].first_child, -1, byte});
        nodes_[node].first_child = next;
        if (node == 0) roots_[static_cast<uint8_t>(byte)] = next;
      }
      node = next;
    }
    require(node != 0, ExitCode::kData, "{}: added token {} is empty", where, tokens_[t].id);
    require(nodes_[node].token < 0, ExitCode::kData, "{}: two added tokens look for the same text '{}'",
            where, forms[t]);
    nodes_[node].token = static_cast<int32_t>(t);
  }
}

int32_t AddedTokens::child(int32_t node, char byte) const {
  if (node == 0) return roots_[static_cast<uint8_t>(byte)];
  int32_t next = nodes_[node].first_child;
  while (next >= 0 && nodes_[next].byte != byte) next = nodes_[next].sibling;
  return next;
}

int32_t AddedTokens::longest_at(std::string_view text, size_t at, size_t& end) const {
  int32_t token = -1;
  for (int32_t node = 0; at < text.size() && (node = child(node, text[at])) >= 0;) {
    ++at;
    if (nodes_[node].token >= 0) {
      token = nodes_[node].token;
      end = at;
    }
  }
  return token;
}

void AddedTokens::split(std::string_view text, bool specials_as_text, std::vector<Part>& parts) const {
  size_t done = 0;  // text before is in parts
  for (size_t at = 0; at < text.size();) {
    size_t stop = at;
    const int32_t index = longest_at(text, at, stop);
    if (index < 0) {
      ++at;
      continue;
    }
    size_t start = std::exchange(at, stop);  // a token that is refused hides those that start within it
    const AddedToken& token = tokens_[index];
    if (token.special && specials_as_text) continue;
    if (token.single_word &&
        (is_word(last_of(text.substr(0, start))) || is_word(first_of(text.substr(stop)))))
      continue;
    if (token.lstrip) start = std::max(start - blanks_before(text.substr(0, start)), done);
    if (token.rstrip) stop += blanks_at_start(text.substr(stop));
    if (done < start) parts.push_back({{done, start}, -1});
    parts.push_back({{start, stop}, token.id});
    done = stop;
  }
  if (done < text.size()) parts.push_back({{done, text.size()}, -1});
}

}  // namespace cadre::data
