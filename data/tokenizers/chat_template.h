// Chat templates: from a list of messages to the text that a model was trained on, as transformers'
// apply_chat_template renders it, and which bytes of it are the assistant's answers.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "data/jinja/template.h"
#include "data/tokenizers/tokenizer_json.h"

namespace cadre::data {

struct ChatOptions {
  bool add_generation_prompt = false;             // ends with what starts an answer
  jinja::Json variables = jinja::Json::object();  // others that the template asks for: tools, enable_thinking
  std::time_t now = 0;                            // for templates that print the date; 0: the clock
};

// Bytes [begin, end) of the text were written by the assistant in messages[message]: from the end of the prompt
// that asks for an answer to the end of the special token that closes it.
struct ChatAnswer {
  size_t begin, end;
  int32_t message;
};
struct ChatText {
  std::string text;
  std::vector<ChatAnswer> answers;  // in order
};

class ChatTemplate {
 public:
  struct Tokens {
    std::vector<std::pair<std::string, std::string>> names;  // bos_token, eos_token, ... and their texts
    std::vector<std::string> special;                        // all special tokens
  };
  // `where` names the template in messages. Throws Error(kData) for what the template language lacks.
  ChatTemplate(const std::string& source, Tokens tokens, const std::string& where);

  // `messages`: a list of objects with a "role" and mostly a "content". Throws Error(kData), also where the
  // template itself refuses the conversation.
  ChatText render(const jinja::Json& messages, const ChatOptions& options = {}) const;

 private:
  jinja::Text render_marked(const jinja::Json& messages, const ChatOptions& options, bool prompt) const;
  std::string generation_prompt(const jinja::Json& messages, const ChatOptions& options) const;

  jinja::Template template_;
  Tokens tokens_;
};

// The template that was imported with a tokenizer.json, or, when `path` is not empty, that of a file: a .jinja, a
// tokenizer_config.json, or a folder with one of them. Throws Error(kData) when there is none.
ChatTemplate load_chat_template(const Tokenizer& tokenizer, const std::filesystem::path& path = {});

struct ChatIds {
  std::vector<int32_t> ids;
  std::vector<uint8_t> answer;  // 1: some byte of the token belongs to an answer
};
// Throws Error(kData) for a tokenizer that has no special tokens in texts (SentencePiece's .model, bytes).
ChatIds encode_chat(const Tokenizer& tokenizer, const ChatText& chat);

}  // namespace cadre::data
