// A chat template of a stranger, over a conversation with what templates ask for.
#include "data/tokenizers/chat_template.h"

#include "tests/fuzz/targets.h"

void cadre::fuzz::chat_template_target(std::string_view input) {
  static const auto messages = data::jinja::Json::parse(
      R"([{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "é"}], "n": 3},
          {"role": "assistant", "content": " a\nb ", "x": 2.5, "tool_calls": [{"name": "f", "arguments": {"k": null}}]}])");
  survive([&] {
    const data::ChatTemplate made(
        std::string(input),
        {.names = {{"bos_token", "<s>"}, {"eos_token", "</s>"}}, .special = {"<s>", "</s>"}}, "fuzz");
    const data::ChatText chat = made.render(messages, {.add_generation_prompt = true, .now = 1});
    for (const data::ChatAnswer& answer : chat.answers)
      if (answer.begin > answer.end || answer.end > chat.text.size()) std::abort();
  });
}
