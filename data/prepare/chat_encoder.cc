#include "data/prepare/chat_encoder.h"

#include <algorithm>

#include "parallel/base/errors.h"

namespace cadre::data {

using Json = nlohmann::ordered_json;

ChatEncoder::ChatEncoder(const Tokenizer& tokenizer, const std::string& chat_template)
    : tokenizer_(tokenizer) {
  if (chat_template == "plain") return;
  template_ = load_chat_template(tokenizer, chat_template == "tokenizer" ? "" : chat_template);
}

ChatEncoder::Encoded ChatEncoder::plain(const Json& messages, size_t first_trained, bool open) const {
  Encoded out{{int32_t(tokenizer_.bos())}, {}};
  std::string between;  // text since the last answer
  const auto flush = [&] {
    tokenizer_.encode(between, out.ids);
    between.clear();
    out.answer.resize(out.ids.size(), 0);
  };
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string role = messages[i]["role"], content = messages[i]["content"];
    if (role != "assistant") {
      require(role == "user" || role == "system", ExitCode::kData,
              "the plain format knows the roles system, user and assistant, found '{}'", role);
      between += fmt::format("{}{}\n", role == "user" ? "User: " : "", content);
      continue;
    }
    between += "Assistant:";
    flush();
    tokenizer_.encode(fmt::format(" {}", content), out.ids);
    out.ids.push_back(tokenizer_.eos());
    out.answer.resize(out.ids.size(), i >= first_trained ? 1 : 0);
    between.assign(1, '\n');
  }
  if (!open) return out;
  between += "Assistant:";
  flush();
  return out;
}

ChatEncoder::Encoded ChatEncoder::conversation(const Json& messages, size_t first_trained) const {
  if (!template_) return plain(messages, first_trained, false);
  ChatText text = template_->render(messages);
  text.answers.erase(std::remove_if(text.answers.begin(), text.answers.end(),
                                    [&](const ChatAnswer& a) { return size_t(a.message) < first_trained; }),
                     text.answers.end());
  ChatIds ids = encode_chat(tokenizer_, text);
  return {std::move(ids.ids), std::move(ids.answer)};
}

std::vector<int32_t> ChatEncoder::prompt(const Json& messages) const {
  if (!template_) return plain(messages, messages.size(), true).ids;
  return encode_chat(tokenizer_,
                     template_->render(
                         messages, {.add_generation_prompt = true, .variables = Json::object(), .now = 0}))
      .ids;
}

}  // namespace cadre::data
