// Conversations as token ids, with the tokens that the model has to write marked.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "data/tokenizers/chat_template.h"

namespace cadre::data {

// Without a template, for tokenizers that have no special tokens in texts: bos, then "User: question\nAssistant:", then
// " answer" and eos, and a line break before the next message. Prompts and answers are encoded apart, so that a prompt
// has the same ids whether an answer follows or is still to be sampled.
class ChatEncoder {
 public:
  // chat_template: "plain"; "tokenizer", the one that came with the tokenizer; or the path of one.
  ChatEncoder(const Tokenizer& tokenizer, const std::string& chat_template);

  struct Encoded {
    std::vector<int32_t> ids;
    std::vector<uint8_t> answer;  // by token
  };
  // Answers of messages before `first_trained` are not marked. Throws Error(kData) where the template refuses.
  Encoded conversation(const nlohmann::ordered_json& messages, size_t first_trained) const;
  // Up to where the assistant's answer begins.
  std::vector<int32_t> prompt(const nlohmann::ordered_json& messages) const;

 private:
  Encoded plain(const nlohmann::ordered_json& messages, size_t first_trained, bool open) const;
  const Tokenizer& tokenizer_;  // borrowed; outlives the encoder
  std::optional<ChatTemplate> template_;
};

}  // namespace cadre::data
