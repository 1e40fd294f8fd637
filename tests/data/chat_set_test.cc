// Sets of conversations, pairs and prompts: from JSONL to what a micro-batch holds.
#include <set>

#include "data/feed.h"
#include "tests/data/prepare_fixture.h"

namespace cadre::data {
namespace {

class ChatSetTest : public PrepareTest {
 protected:
  // Prepares `lines` and opens the training split.
  std::unique_ptr<Corpus> make(SetKind kind, const std::string& lines) {
    options_.kind = kind;
    options_.valid_fraction = 0;
    options_.force = true;
    options_.inputs = {write("in/talk.jsonl", lines)};
    result_ = run(options_);
    tokenizer_ = load_tokenizer(options_.out / result_.manifest.tokenizer_file);
    return open_corpus(load_manifest(options_.out / "manifest.json"), "train", Verify::kAlways);
  }
  // A document's text with trained tokens in brackets; bos and eos are < and >.
  std::string shown(const Corpus& corpus, int64_t document) const {
    std::vector<int32_t> ids(size_t(corpus.document(document).length));
    std::vector<uint8_t> mask(ids.size());
    corpus.read(document, 0, ids);
    corpus.read_mask(document, 0, mask);
    std::string text;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (mask[i] && (i == 0 || !mask[i - 1])) text += '[';
      text += ids[i] == tokenizer_->bos()   ? "<"
              : ids[i] == tokenizer_->eos() ? ">"
                                            : tokenizer_->decode({&ids[i], 1});
      if (mask[i] && (i + 1 == ids.size() || !mask[i + 1])) text += ']';
    }
    return text;
  }
  int64_t count(InputProblem problem) const { return result_.report.counts[size_t(problem)]; }

  PrepareResult result_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

const std::string kTalks =
    R"({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "So?"}, {"role": "assistant", "content": "No."}]})"
    "\n"
    R"({"prompt": "1+1", "response": "2"})"
    "\n";

TEST_F(ChatSetTest, TrainsTheAnswersOfConversationsAlone) {
  const auto corpus = make(SetKind::kInstruction, kTalks);
  ASSERT_EQ(corpus->num_documents(), 2);
  EXPECT_EQ(shown(*corpus, 0), "<Be brief.\nUser: Hi\nAssistant:[ Ho>]\nUser: So?\nAssistant:[ No.>]");
  EXPECT_EQ(shown(*corpus, 1), "<User: 1+1\nAssistant:[ 2>]");
  EXPECT_EQ(corpus->kind(), SetKind::kInstruction);
}

TEST_F(ChatSetTest, UsesTheTemplateOfATokenizer) {
  options_.tokenizer =
      write("tok/tokenizer.json",
            base::read_file(fs::path(CADRE_GOLDEN_FOLDER) / "qwen_style.json", ExitCode::kData))
          .string();
  const nlohmann::json config = {
      {"bos_token", "<|end|>"},
      {"eos_token", "<|end|>"},
      {"chat_template",
       "{% for m in messages %}<|end|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
       "{% if add_generation_prompt %}<|end|>assistant\n{% endif %}"}};
  write("tok/tokenizer_config.json", config.dump());
  options_.chat_template = "tokenizer";
  const auto corpus = make(SetKind::kInstruction, kTalks);
  EXPECT_EQ(shown(*corpus, 1), "<user\n1+1<<assistant\n[2<]");  // bos is eos here
  const auto prompts = make(SetKind::kPrompts, R"({"prompt": "1+1"})");
  EXPECT_EQ(shown(*prompts, 0), "[<user\n1+1<<assistant\n]");
}

TEST_F(ChatSetTest, KeepsPairsTogetherFromTheFileToTheBatch) {
  const auto corpus = make(
      SetKind::kPreference,
      R"({"prompt": "Hi", "chosen": "Ho", "rejected": "Go away"})"
      "\n"
      R"({"chosen": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], "rejected": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "C"}]})"
      "\n"
      R"({"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}], "chosen": "1", "rejected": "2"})"
      "\n");
  ASSERT_EQ(corpus->num_documents(), 6);
  EXPECT_EQ(shown(*corpus, 0), "<User: Hi\nAssistant:[ Ho>]");
  EXPECT_EQ(shown(*corpus, 1), "<User: Hi\nAssistant:[ Go away>]");
  EXPECT_EQ(shown(*corpus, 3), "<User: A\nAssistant:[ C>]");
  EXPECT_EQ(shown(*corpus, 4), "<User: x\nAssistant: y>\nUser: z\nAssistant:[ 1>]");

  const auto mixer =
      make_mixer(base::parse_run_text("name: natural", "run.yaml", {}), mixer_context(*corpus, 1000));
  const auto order = make_curriculum(base::parse_run_text("name: none", "run.yaml", {}), corpus.get());
  const PlannerConfig plan{.seed = 2, .global_batch = 2, .seq_len = 90, .pack = false};
  DataFeed feed(plan, {.micro_batch = 2, .seq_len = 90, .prefetch = 0}, *corpus, *mixer, *order);
  const LoadedBatch batch = feed.next({});
  EXPECT_EQ(batch.counts.pairs, 2);
  EXPECT_EQ(batch.counts.trained_segments, 4);
  const Batch& b = batch.micro.at(0);
  int64_t trained = 0;
  for (int64_t row = 0; row < 2; ++row) {
    const size_t at = size_t(row * 90);
    const int64_t chosen = b.document[at];
    EXPECT_EQ(chosen % 2, 0);
    const size_t second = at + size_t(corpus->document(chosen).length) - 1;
    EXPECT_EQ(b.segment[second - 1], 0);
    EXPECT_EQ(b.segment[second], 1);
    EXPECT_EQ(b.position[second], 0);
    EXPECT_EQ(b.document[second], chosen + 1);
    for (size_t i = 0; i < 90; ++i) trained += b.loss_mask[at + i] != 0;
  }
  EXPECT_EQ(batch.counts.trained_tokens, trained);
  EXPECT_THROW(DataFeed({.seed = 2, .global_batch = 2, .seq_len = 30, .pack = false},
                        {.micro_batch = 2, .seq_len = 30, .prefetch = 0}, *corpus, *mixer, *order),
               Error);
}

TEST_F(ChatSetTest, KeepsAnswersAndLevelsOfPrompts) {
  const auto corpus = make(SetKind::kPrompts, R"({"prompt": "1+1", "answer": 2, "level": 3})"
                                              "\n"
                                              R"({"prompt": "Say something."})"
                                              "\n");
  EXPECT_EQ(shown(*corpus, 0).substr(0, 6), "[<User");  // nothing is masked: a prompt has no answer's tokens
  EXPECT_EQ(corpus->prompt(0).answer, "2");
  EXPECT_EQ(corpus->prompt(0).level, 3);
  EXPECT_EQ(corpus->prompt(1).answer, "");
}

TEST_F(ChatSetTest, MasksDecideWhatCountsInMicroBatches) {
  const auto corpus = make(SetKind::kInstruction, kTalks);
  BatchPlan plan;
  plan.sequences = {{0, {{0, 0, corpus->document(0).length - 1}, {1, 0, corpus->document(1).length - 1}}}};
  plan.domain_sequences = plan.domain_tokens = {0};
  const LoadedBatch batch = build_batch(plan, *corpus, {.micro_batch = 1, .seq_len = 100});
  EXPECT_EQ(batch.counts.trained_tokens, 4 + 5 + 3);  // " Ho", " No." and " 2", each with eos
  EXPECT_EQ(batch.counts.trained_segments, 2);
  EXPECT_EQ(batch.domain_tokens, std::vector<int64_t>{12});
  float sum = 0;
  for (const float m : batch.micro[0].loss_mask) sum += m;
  EXPECT_EQ(sum, 12);
}

TEST_F(ChatSetTest, LeavesBadLinesOutAndSaysWhere) {
  const std::pair<std::string, std::string> bad[] = {
      {R"({"messages": [{"role": "user", "content": "Hi"}]})", "does not end with an answer"},
      {R"({"messages": []})", "\"messages\" is a array"},
      {R"({"messages": [{"role": "user"}]})", "without the texts"},
      {R"({"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]})",
       "found 'tool'"},
      {R"({"prompt": "x"})", "\"response\" is missing"},
      {R"([1])", "expected an object"},
      {R"({"messages": )" + std::string(300000, '[') + std::string(300000, ']') + "}", "nested too deeply"},
      {"{", "not JSON"}};
  for (const auto& [line, message] : bad) {
    make(SetKind::kInstruction, kTalks + line + "\n");
    EXPECT_EQ(count(InputProblem::kBrokenJson) + count(InputProblem::kNoText), 1) << line;
    options_.strict = true;
    const std::string failed = failure(options_);
    options_.strict = false;
    EXPECT_NE(failed.find(message), std::string::npos) << failed;
    EXPECT_NE(failed.find("talk.jsonl"), std::string::npos) << failed;
  }
  make(SetKind::kInstruction, kTalks + kTalks);
  EXPECT_EQ(count(InputProblem::kExactDuplicate), 2);
  options_.max_tokens = 30;
  make(SetKind::kInstruction, kTalks);
  EXPECT_EQ(count(InputProblem::kTooLong), 1);
}

TEST_F(ChatSetTest, RefusesWhatCannotBecomeASet) {
  options_.kind = SetKind::kInstruction;
  options_.inputs = {write("in/talk.jsonl", "{}\n")};
  EXPECT_NE(failure(options_).find("nothing to train on"), std::string::npos);
  EXPECT_FALSE(fs::exists(options_.out / "manifest.json"));
  options_.tokenizer = "sentencepiece";
  EXPECT_NE(failure(options_, ExitCode::kUsage).find("--tokenizer"), std::string::npos);
}

TEST_F(ChatSetTest, HoldsAllAnswersToAPromptOutTogether) {
  std::string lines;
  for (int p = 0; p < 40; ++p) {
    for (int a = 0; a < 3; ++a)
      lines += fmt::format(R"({{"prompt": "q{}", "response": "a{}"}})", p, a) + "\n";
  }
  options_.kind = SetKind::kInstruction;
  options_.valid_fraction = 0.3;
  options_.inputs = {write("in/talk.jsonl", lines)};
  tokenizer_ = make_byte_tokenizer();
  const Manifest manifest = run(options_, 2).manifest;
  std::map<std::string, std::set<std::string>> splits;  // by prompt
  for (const Split& split : manifest.splits) {
    const auto corpus = open_corpus(manifest, split.name, Verify::kAlways);
    EXPECT_GT(corpus->num_documents(), 0);
    for (int64_t d = 0; d < corpus->num_documents(); ++d) {
      const std::string text = shown(*corpus, d);
      splits[text.substr(0, text.find('['))].insert(split.name);
    }
  }
  EXPECT_EQ(splits.size(), 40u);
  for (const auto& [prompt, names] : splits) EXPECT_EQ(names.size(), 1u) << prompt;
}

}  // namespace
}  // namespace cadre::data
