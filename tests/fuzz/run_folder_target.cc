// Lines of metrics.jsonl, drawn by the report and by top; behind a form feed, the environment.
#include "tests/fuzz/targets.h"
#include "trainer/report/page.h"
#include "trainer/report/top.h"

void cadre::fuzz::run_folder_target(std::string_view text) {
  const size_t cut = std::min(text.find('\f'), text.size());
  write("metrics.jsonl", text.substr(0, cut));
  write("environment.json", text.substr(std::min(cut + 1, text.size())));
  survive([&] {
    const report::RunData run = report::read_run_folder(folder());
    (void)report::html_page({run});
    (void)report::top_screen(run, 80);
  });
}
