#include "trainer/audit/audit_config.h"

#include "trainer/run/initial_model.h"

namespace cadre::audit {

AuditConfig read_audit(base::Section section) {
  AuditConfig c;
  c.base = study::read_base(section);
  c.out = section.text("out");
  c.set = study::read_overrides(section, "set");
  c.at = section.number("at", c.at, {.max = 1, .above = 0});
  if (section.has("oracle")) c.oracle = read_oracle(section.section("oracle"));
  if (section.has("controls")) c.controls = read_controls(section.section("controls"));
  if (section.has("lds")) c.lds = read_lds(section.section("lds"));
  if (section.has("mixes")) c.mixes = read_mixes(section.section("mixes"));
  std::vector<std::string> there;
  for (const char* part : {"oracle", "controls", "lds", "mixes"}) {
    if (!section.has(part)) continue;
    there.push_back(part);
    c.part_settings[part] = study::read_value(section, part);
  }
  c.parts = section.texts("parts", there);
  for (const std::string& part : c.parts) {
    if (c.part_settings.count(part) == 0)
      section.reject("parts", fmt::format("'{}' is none of this file's: {}", part, fmt::join(there, ", ")));
  }
  section.finish();
  trainer::RunConfig run = configure(c, {});
  run.out.clear();
  c.settings = fmt::format("{}\nat {}\n", resolved_yaml(run), c.at);
  return c;
}

trainer::RunConfig configure(const AuditConfig& audit, const study::Overrides& more) {
  std::vector<std::string> arguments = study::as_arguments(audit.set);
  for (const std::string& argument : study::as_arguments(more)) arguments.push_back(argument);
  return trainer::load_run(audit.base, arguments);
}

}  // namespace cadre::audit
