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
  std::vector<std::string> runs, audits;
  std::string out;
};

// The page with the sections of these audits at its end.
std::string with_audits(std::string page, const std::vector<std::string>& audits) {
  for (const std::string& audit : audits) {
    const std::filesystem::path file = std::filesystem::path(audit) / "sections.html";
    page.insert(page.rfind("</main>"), base::read_file(file, ExitCode::kUsage));
  }
  return page;
}

int report(const ReportOptions& options) {
  std::vector<report::RunData> runs;
  for (const std::string& run : options.runs) runs.push_back(report::read_run_folder(run));
  const std::filesystem::path out = options.out.empty()
                                        ? std::filesystem::path(options.runs.front()) / "report.html"
                                        : std::filesystem::path(options.out);
  base::write_file_atomic(out, with_audits(report::html_page(runs), options.audits), ExitCode::kUsage);
  fmt::print("wrote {}\n", out.string());
  return int(ExitCode::kOk);
}

}  // namespace

void add_report(CLI::App& app, Run& run) {
  const auto options = std::make_shared<ReportOptions>();
  CLI::App* verb = app.add_subcommand("report", "Write one HTML file about one or more runs");
  verb->add_option("runs", options->runs, "Run folders; the first gets the file")->required();
  verb->add_option("-o,--out", options->out, "The file (default: report.html in the first run's folder)");
  verb->add_option("--audit", options->audits, "Folders of `cadre audit`, whose tables and plots are added");
  verb->callback([options, &run] { run = [options] { return report(*options); }; });
}

}  // namespace cadre::launch
