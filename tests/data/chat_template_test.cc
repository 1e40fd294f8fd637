// Conversations against transformers' apply_chat_template; cases from tests/golden/make_chat_cases.py.
#include "data/tokenizers/chat_template.h"

#include <gtest/gtest.h>

#include "data/tokenizers/chat_source.h"
#include "parallel/base/errors.h"
#include "parallel/base/files.h"
#include "tests/data/bpe_fixtures.h"

namespace cadre::data {
namespace {

using Messages = jinja::Json;

Messages read_cases() {
  return Messages::parse(base::read_file(CADRE_CHAT_CASES, ExitCode::kData));
}

ChatTemplate family(const Messages& cases, const std::string& name, const std::string& extra_special = "") {
  const Messages& f = cases["templates"][name];
  const std::string bos = f["bos_token"], eos = f["eos_token"];
  return {f["template"],
          {{{"bos_token", bos}, {"eos_token", eos}}, {bos, eos, extra_special, "<|im_start|>"}},
          name};
}

TEST(ChatTemplate, RendersAsTheReferenceDoesForEveryFamily) {
  const Messages cases = read_cases();
  size_t rendered = 0, refused = 0;
  for (const Messages& c : cases["chats"]) {
    const ChatTemplate chat = family(cases, c["family"]);
    const ChatOptions options{.add_generation_prompt = c["prompt"], .variables = c["variables"]};
    if (c.contains("output")) {
      try {
        EXPECT_EQ(chat.render(c["messages"], options).text, c["output"]) << c["family"] << c["messages"];
      } catch (const Error& error) {
        ADD_FAILURE() << c["family"] << c["messages"] << "\n" << error.what();
      }
      ++rendered;
    } else {
      EXPECT_THROW(chat.render(c["messages"], options), Error) << c["family"] << c["messages"];
      ++refused;
    }
  }
  EXPECT_GT(rendered, 150u);
  EXPECT_GT(refused, 20u);
}

std::vector<std::string> answers_of(const ChatText& chat) {
  std::vector<std::string> answers;
  for (const ChatAnswer& a : chat.answers) answers.push_back(chat.text.substr(a.begin, a.end - a.begin));
  return answers;
}

const Messages kTalk =
    Messages::parse(R"([{"role": "system", "content": "Yes."}, {"role": "user", "content": "Yes."},
    {"role": "assistant", "content": " Yes. "}, {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Sure."}])");
const Messages kCalls =
    Messages::parse(R"([{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "",
    "tool_calls": [{"id": "abcdefghi", "function": {"name": "weather", "arguments": {"days": 2}}}]},
    {"role": "tool", "content": "no", "tool_call_id": "abcdefghi"}, {"role": "assistant", "content": "No."}])");

TEST(ChatTemplate, AnAnswerGoesFromItsPromptToTheTokenThatClosesIt) {
  const Messages cases = read_cases();
  using Texts = std::vector<std::string>;
  const auto answers = [&](const char* name, const Messages& talk) {
    return answers_of(family(cases, name).render(talk, {.variables = {{"tools", Messages::array()}}}));
  };
  EXPECT_EQ(answers("llama2", kTalk), (Texts{"Yes. </s>", "Sure. </s>"}));
  EXPECT_EQ(answers("llama3", kTalk), (Texts{"Yes.<|eot_id|>", "Sure.<|eot_id|>"}));
  EXPECT_EQ(answers("llama31", kTalk), (Texts{"Yes.<|eot_id|>", "Sure.<|eot_id|>"}));
  EXPECT_EQ(answers("mistral", kTalk), (Texts{"Yes.</s>", "Sure.</s>"}));
  EXPECT_EQ(answers("qwen", kTalk), (Texts{" Yes. <|im_end|>", "<think>\n\n</think>\n\nSure.<|im_end|>"}));
  EXPECT_EQ(answers("llama31", kCalls),
            (Texts{"{\"call\": \"weather\", \"with\": {\"days\": 2}}<|eot_id|>", "No.<|eot_id|>"}));
  EXPECT_EQ(answers("qwen", kCalls),
            (Texts{"<call>weather {\"days\": 2}</call><|im_end|>", "<think>\n\n</think>\n\nNo.<|im_end|>"}));
}

TEST(ChatTemplate, AGenerationBlockSaysWhatTheAnswerIs) {
  const ChatTemplate chat(
      "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }};"
      "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
      {}, "test");
  const ChatText text = chat.render(kTalk);
  EXPECT_EQ(answers_of(text), (std::vector<std::string>{" Yes. ;", "Sure.;"}));
  EXPECT_EQ(text.answers[1].message, 4);
}

TEST(ChatTemplate, RefusesWhatAreNoMessages) {
  const ChatTemplate chat("{{ messages | length }}", {}, "test");
  EXPECT_THROW(chat.render(Messages::object()), Error);
  EXPECT_THROW(chat.render(Messages::parse(R"([{"content": "x"}])")), Error);
  EXPECT_THROW(chat.render(Messages::parse(R"(["x"])")), Error);
}

constexpr const char* kMarks =
    "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}{% if "
    "add_generation_prompt %}"
    "<|im|>assistant\n{% endif %}";

std::string config(const std::string& text) {
  return Json{{"bos_token", nullptr}, {"eos_token", {{"content", "<|end|>"}}}, {"chat_template", text}}
      .dump();
}

TEST(ChatTemplate, IsImportedAndSavedWithItsTokenizer) {
  const Scratch scratch;
  scratch.write("tokenizer.json", read_json(kGolden / "qwen_style.json").dump());
  scratch.write("tokenizer_config.json", config(kMarks));
  const auto imported = import_tokenizer(scratch.path);
  const auto saved = make_tokenizer_json(imported->definition(), "saved");
  EXPECT_EQ(load_chat_template(*saved).render(kTalk, {.add_generation_prompt = true}).text,
            "<|im|>system\nYes.<|end|>\n<|im|>user\nYes.<|end|>\n<|im|>assistant\n Yes. "
            "<|end|>\n<|im|>user\nSure?<|end|>\n"
            "<|im|>assistant\nSure.<|end|>\n<|im|>assistant\n");
  const fs::path file = scratch.write("chat_template.jinja", "{{ eos_token }}{{ messages | length }}");
  EXPECT_EQ(load_chat_template(*saved, file).render(kTalk).text, "<|end|>5");
  EXPECT_EQ(load_chat_template(*import_tokenizer(scratch.path)).render(kTalk).text, "<|end|>5");
  EXPECT_EQ(load_chat_template(*saved, scratch.path / "tokenizer_config.json").render(kTalk).text.size(),
            131u);
  EXPECT_THROW(load_chat_template(*make_byte_tokenizer()), Error);
  EXPECT_THROW(load_chat_template(*import_tokenizer(kGolden / "qwen_style.json", {"<|end|>", "<|end|>"})),
               Error);
}

// What the ids with answer = 1 spell, answer by answer.
std::string spelt_answers(const BpeTokenizer& tokenizer, const ChatText& chat) {
  const ChatIds ids = encode_chat(tokenizer, chat);
  EXPECT_EQ(ids.ids.size(), ids.answer.size());
  std::string text;
  for (size_t i = 0; i < ids.ids.size(); ++i) {
    if (ids.answer[i]) text += tokenizer.bytes_of(ids.ids[i]);
    if (ids.answer[i] && (i + 1 == ids.ids.size() || !ids.answer[i + 1])) text += "/";
  }
  return text;
}

TEST(ChatTemplate, TokensOfAnswersAreMarked) {
  const auto qwen = import_tokenizer(kGolden / "qwen_style.json", {"<|end|>", "<|end|>"});
  const ChatTemplate marks(kMarks, {{}, {"<|end|>", "<|im|>"}}, "test");
  const ChatText chat = marks.render(kTalk);
  EXPECT_EQ(spelt_answers(*qwen, chat), " Yes. <|end|>/Sure.<|end|>/");
  EXPECT_EQ(encode_chat(*qwen, chat).ids, encode_with_specials(*qwen, chat.text));
  // NFC makes one character of two, so that tokens no longer spell the text.
  Messages talk = kTalk;
  talk[0]["content"] = "e\u0301";
  talk[2]["content"] = "e\u0301";
  EXPECT_EQ(spelt_answers(*qwen, marks.render(talk)), "\u00e9<|end|>/Sure.<|end|>/");

  const auto llama = import_tokenizer(kGolden / "llama2_style.json");
  const ChatText turns = family(read_cases(), "llama2").render(kTalk);
  EXPECT_EQ(spelt_answers(*llama, turns), "Yes. </s>/Sure. </s>/");
  EXPECT_EQ(encode_chat(*llama, turns).ids, encode_with_specials(*llama, turns.text));
}

}  // namespace
}  // namespace cadre::data
