#include "data/tasks/task_corpus.h"

#include <algorithm>
#include <set>

#include "data/prepare/chat_encoder.h"
#include "parallel/base/errors.h"

namespace cadre::data {
namespace {

using Json = nlohmann::ordered_json;

struct Document {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> mask;  // empty: a prompt
  PromptInfo prompt;
  int32_t domain = 0;
};

class TaskCorpus final : public Corpus {
 public:
  TaskCorpus(SetKind kind, std::vector<std::string> domains, std::vector<Document> documents)
      : kind_(kind), domains_(std::move(domains)), documents_(std::move(documents)) {}
  SetKind kind() const override { return kind_; }
  int64_t num_documents() const override { return int64_t(documents_.size()); }
  DocumentInfo document(int64_t index) const override {
    const Document& d = documents_.at(size_t(index));
    return {int64_t(d.tokens.size()), 0, d.domain};
  }
  int num_domains() const override { return int(domains_.size()); }
  const std::string& domain_name(int domain) const override { return domains_.at(size_t(domain)); }
  void read(int64_t document, int64_t begin, std::span<int32_t> out) const override {
    const std::vector<int32_t>& tokens = documents_.at(size_t(document)).tokens;
    std::copy_n(tokens.begin() + begin, out.size(), out.begin());
  }
  void read_mask(int64_t document, int64_t begin, std::span<uint8_t> out) const override {
    const std::vector<uint8_t>& mask = documents_.at(size_t(document)).mask;
    if (mask.empty()) return Corpus::read_mask(document, begin, out);
    std::copy_n(mask.begin() + begin, out.size(), out.begin());
  }
  PromptInfo prompt(int64_t document) const override {
    if (kind_ != SetKind::kPrompts) return Corpus::prompt(document);
    return documents_.at(size_t(document)).prompt;
  }

 private:
  SetKind kind_;
  std::vector<std::string> domains_;
  std::vector<Document> documents_;
};

std::unique_ptr<Task> named_task(const std::string& name, const base::Section& section) try {
  return make_task(name);
} catch (const Error& error) {
  section.reject("name", error.what());
}

}  // namespace

TaskSetConfig read_task_set(base::Section section) {
  TaskSetConfig c;
  c.task = section.text("name");
  const std::unique_ptr<Task> task = named_task(c.task, section);
  c.levels = section.integers("levels", c.levels, {.min = 1, .max = task->levels()});
  if (c.levels.empty() || std::set<int64_t>(c.levels.begin(), c.levels.end()).size() != c.levels.size())
    section.reject("levels", "expected a list of levels, each once");
  c.seed = uint64_t(section.integer("seed", int64_t(c.seed), {.min = 0}));
  c.problems = section.integer("problems", c.problems, {.min = 1, .max = 1 << 24});
  c.held_out = section.integer("held_out", c.held_out, {.min = 1, .max = 1 << 20});
  c.tokenizer = section.text("tokenizer", c.tokenizer);
  c.chat_template = section.text("chat_template", c.chat_template);
  section.finish();
  return c;
}

std::unique_ptr<Corpus> make_task_corpus(const TaskSetConfig& config, TaskSplit split,
                                         const Tokenizer& tokenizer, SetKind kind) {
  const std::unique_ptr<Task> task = make_task(config.task);
  const ChatEncoder encoder(tokenizer, config.chat_template);
  const int64_t count = split == TaskSplit::kTrain ? config.problems : config.held_out;
  std::vector<std::string> domains;
  std::vector<Document> documents;
  for (const int64_t level : config.levels) {
    for (int64_t i = 0; i < count; ++i) {
      Problem problem = make_problem(*task, split, config.seed, uint64_t(i), int(level));
      Document d{.tokens = {},
                 .mask = {},
                 .prompt = {problem.answer, problem.level},
                 .domain = int32_t(domains.size())};
      Json messages = Json::array({{{"role", "user"}, {"content", problem.prompt}}});
      if (kind == SetKind::kPrompts) {
        d.tokens = encoder.prompt(messages);
      } else {
        messages.push_back({{"role", "assistant"}, {"content", problem.answer}});
        ChatEncoder::Encoded whole = encoder.conversation(messages, 0);
        d.tokens = std::move(whole.ids);
        d.mask = std::move(whole.answer);
      }
      documents.push_back(std::move(d));
    }
    domains.push_back(fmt::format("{}-{}", config.task, level));
  }
  return std::make_unique<TaskCorpus>(kind, std::move(domains), std::move(documents));
}

}  // namespace cadre::data
