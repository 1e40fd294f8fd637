// `cadre report`: one self-contained HTML file about one or more runs.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "launch/verbs.h"
#include "parallel/base/files.h"
#include "trainer/report/page.h"

namespace cadre::launch {
namespace {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string out;
};

int report(const ReportOptions& options) {
  std::vector<report::RunData> runs;
  for (const std::string& run : options.runs) runs.push_back(report::read_run_folder(run));
  const std::filesystem::path out = options.out.empty()
                                        ? std::filesystem::path(options.runs.front()) / "report.html"
                                        : std::filesystem::path(options.out);
  base::write_file_atomic(out, report::html_page(runs), ExitCode::kUsage);
  fmt::print("wrote {}\n", out.string());
  return int(ExitCode::kOk);
}

}  // namespace

void add_report(CLI::App& app, Run& run) {
  const auto options = std::make_shared<ReportOptions>();
  CLI::App* verb = app.add_subcommand("report", "Write one HTML file about one or more runs");
  verb->add_option("runs", options->runs, "Run folders; the first gets the file")->required();
  verb->add_option("-o,--out", options->out, "The file (default: report.html in the first run's folder)");
  verb->callback([options, &run] { run = [options] { return report(*options); }; });
}

}  // namespace cadre::launch
