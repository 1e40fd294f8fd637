// Where chat templates are found, and conversations as ids.
#include <algorithm>

#include "data/tokenizers/chat_source.h"
#include "data/tokenizers/chat_template.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

ChatTemplate::Tokens tokens_of(const ChatSource& chat, const JsonFields& file) {
  ChatTemplate::Tokens tokens{chat.names, {}};
  if (!file.has("added_tokens")) return tokens;
  for (const Json& entry : file.list("added_tokens")) {
    const JsonFields fields(entry, file.where());
    if (fields.flag("special", false)) tokens.special.push_back(fields.text("content"));
  }
  return tokens;
}

const BpeTokenizer& need_bpe(const Tokenizer& tokenizer) {
  const auto* const bpe = dynamic_cast<const BpeTokenizer*>(&tokenizer);
  require(bpe != nullptr, ExitCode::kData,
          "a tokenizer of the kind {} has no special tokens for conversations; use one from a tokenizer.json",
          tokenizer.kind());
  return *bpe;
}

// Walks over the text as the tokens spell it. False where they spell something else: the normaliser changed it.
bool mark_answers(const BpeTokenizer& tokenizer, const ChatText& chat, ChatIds& out) {
  size_t at = 0, answer = 0;
  const std::string_view text = chat.text;
  for (size_t i = 0; i < out.ids.size(); ++i) {
    std::string_view piece = tokenizer.bytes_of(out.ids[i]);
    // A blank that the tokenizer puts before words, and blanks that a special token takes with it.
    if (!text.substr(at).starts_with(piece) && piece.starts_with(' ')) piece.remove_prefix(1);
    size_t begin = at;
    while (begin < text.size() && !text.substr(begin).starts_with(piece) && text[begin] == ' ') ++begin;
    if (!text.substr(begin).starts_with(piece)) return false;
    at = begin + piece.size();
    while (answer < chat.answers.size() && chat.answers[answer].end <= begin) ++answer;
    out.answer[i] = answer < chat.answers.size() && chat.answers[answer].begin < at;
  }
  return std::ranges::all_of(text.substr(at), [](char c) { return c == ' '; });
}

void append_part(const BpeTokenizer& tokenizer, std::string_view part, bool answer, ChatIds& out) {
  tokenizer.encode_with_specials(part, out.ids);
  out.answer.resize(out.ids.size(), answer ? 1 : 0);
}

}  // namespace

ChatTemplate load_chat_template(const Tokenizer& tokenizer, const fs::path& path) {
  need_bpe(tokenizer);
  const Json document = parse_json(tokenizer.definition(), "the tokenizer");
  const JsonFields file(document, "the tokenizer");
  ChatSource chat = read_chat(file);
  std::string where = "the tokenizer's chat template";
  if (!path.empty()) {
    const ChatSource given = find_chat(path);
    chat.text = given.text;
    if (!given.names.empty()) chat.names = given.names;
    where = path.string();
  }
  require(!chat.text.empty(), ExitCode::kData,
          "{}: there is no chat template; give a file with one, or import the tokenizer together with its "
          "tokenizer_config.json",
          path.empty() ? "the tokenizer" : path.string());
  return {chat.text, tokens_of(chat, file), where};
}

ChatIds encode_chat(const Tokenizer& tokenizer, const ChatText& chat) {
  const BpeTokenizer& bpe = need_bpe(tokenizer);
  ChatIds out;
  bpe.encode_with_specials(chat.text, out.ids);
  out.answer.resize(out.ids.size());
  if (mark_answers(bpe, chat, out)) return out;
  // Cut where answers begin and end: a normaliser leaves no other way to tell.
  out = {};
  const std::string_view text = chat.text;
  size_t at = 0;
  for (const ChatAnswer& answer : chat.answers) {
    append_part(bpe, text.substr(at, answer.begin - at), false, out);
    append_part(bpe, text.substr(answer.begin, answer.end - answer.begin), true, out);
    at = answer.end;
  }
  append_part(bpe, text.substr(at), false, out);
  return out;
}

}  // namespace cadre::data
