// One line of JSONL as an example for post-training. A conversation is a list of messages {"role", "content"}.
//   instruction  {"messages": [..]}, or {"prompt": P, "response": text}
//   preference   {"prompt": P, "chosen": A, "rejected": A}; without "prompt", what both conversations begin with
//   prompts      {"prompt": P, "answer": text or number, "level": n}
// P is text (one message of the user) or messages; A is text (the assistant's) or messages.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "data/manifest.h"

namespace cadre::data {

struct ChatExample {
  nlohmann::ordered_json prompt =
      nlohmann::ordered_json::array();      // messages before the first trained answer
  nlohmann::ordered_json chosen, rejected;  // messages that follow; rejected of pairs only
  std::string answer;
  int level = 0;
};

// Returns what is wrong with the line in words, or an empty string.
std::string parse_chat_line(const std::string& line, SetKind kind, ChatExample& example);

}  // namespace cadre::data
