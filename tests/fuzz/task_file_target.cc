// A task file of an evaluation; behind a form feed, the documents that it is asked about.
#include "tests/fuzz/targets.h"
#include "trainer/evaluation/pattern.h"
#include "trainer/evaluation/prompts.h"

void cadre::fuzz::task_file_target(std::string_view text) {
  const size_t cut = std::min(text.find('\f'), text.size());
  const auto documents = write("documents.jsonl", text.substr(std::min(cut + 1, text.size())));
  survive([&] {
    trainer::TaskConfig task = trainer::read_task(write("task.yaml", text.substr(0, cut)));
    for (auto& [split, files] : task.files) files = {documents};  // never another file of this machine
    const auto rows = trainer::read_documents(task, task.split, 4);
    const trainer::Prompts prompts(task);
    for (const auto& row : rows) {
      (void)prompts.context(row, rows);
      (void)prompts.target(row);
    }
    for (const trainer::FilterChain& chain : task.filters)
      for (const trainer::FilterStep& step : chain.steps)
        if (step.kind == trainer::FilterStep::Kind::kRegex)
          (void)trainer::Pattern(step.pattern).find_all("#### 12, 13 or 1.5\n");
  });
}
