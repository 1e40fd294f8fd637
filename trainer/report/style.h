// The style sheet of the report. Colours are variables with a light and a dark value; the palette keeps its order in
// both and stays apart for the common kinds of colour blindness (Okabe & Ito 2008, adjusted for contrast).
#pragma once

namespace cadre::report {

inline constexpr const char* kStyle = R"(
:root{--bg:#fbfbfa;--card:#fff;--ink:#1d2126;--dim:#68707a;--rule:#e4e6e9;--grid:#eceef0;
--c0:#0868ac;--c1:#d55e00;--c2:#00866a;--c3:#b5528f;--c4:#b07d00;--c5:#3a93c9;--c6:#6b4fb3;--c7:#5d6670;
--h0:#f1f5f9;--h1:#dfeaf2;--h2:#c5dbea;--h3:#a3c9e0;--h4:#7ab2d4;--h5:#5397c4;--h6:#377bb0;--h7:#235f96;--h8:#154578;--h9:#0b2d57}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1b1f24;--ink:#e4e7ea;--dim:#949ca6;--rule:#2d3339;--grid:#272c32;
--c0:#58a9e0;--c1:#f08a3c;--c2:#3cbd97;--c3:#dd86bb;--c4:#dcb13a;--c5:#8fcdf0;--c6:#a892e6;--c7:#a3acb6;
--h0:#20262d;--h1:#22323f;--h2:#234052;--h3:#255067;--h4:#28647f;--h5:#2f7b99;--h6:#3c94b3;--h7:#58aecb;--h8:#84c9e0;--h9:#bfe6f3}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:14px/1.45 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:24px;margin:0}h2{font-size:17px;margin:34px 0 6px}h3{font-size:14px;margin:18px 0 4px}
.note{color:var(--dim);margin:2px 0 10px;font-size:13px}
.grid2,.grid3{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr))}
.grid3{grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr))}
.stack>figure{max-width:780px;margin-bottom:14px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px 14px 10px}
figcaption{font-weight:600;font-size:13px;margin-bottom:4px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11px;fill:var(--dim)}svg .unit{font-size:10.5px}
.grid path{stroke:var(--grid);fill:none}.axis path{stroke:var(--dim);fill:none;stroke-width:.8}
.line{fill:none;stroke-width:1.9;stroke-linejoin:round}.raw{stroke-width:.8;opacity:.38}.area{opacity:.85;stroke:var(--card);stroke-width:.6}
.legend,.scale{display:flex;flex-wrap:wrap;gap:3px 14px;font-size:12px;color:var(--dim);margin-top:6px;align-items:center}
.scale{gap:0}.scale span{margin:0 6px}.scale i{width:16px;height:10px}
i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}.scale i{margin:0;border-radius:0}
.wide{overflow-x:auto;margin-top:14px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.wide table{width:100%;background:var(--card);border:1px solid var(--rule);border-radius:8px}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
th{color:var(--dim);font-weight:500;font-size:12px}th:first-child,td:first-child{text-align:left}
tr:last-child td{border-bottom:0}
.facts th,.facts td{text-align:left;white-space:normal;padding:3px 14px 3px 0;vertical-align:top;word-break:break-word}
details{margin:10px 0}summary{cursor:pointer;color:var(--dim)}details>.grid3{margin-top:10px}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px;overflow-x:auto;font-size:12px}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}.s6{stroke:var(--c6)}.s7{stroke:var(--c7)}
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--c6)}.f7{fill:var(--c7)}
.c0{background:var(--c0)}.c1{background:var(--c1)}.c2{background:var(--c2)}.c3{background:var(--c3)}.c4{background:var(--c4)}.c5{background:var(--c5)}.c6{background:var(--c6)}.c7{background:var(--c7)}
path.h0{fill:var(--h0)}path.h1{fill:var(--h1)}path.h2{fill:var(--h2)}path.h3{fill:var(--h3)}path.h4{fill:var(--h4)}path.h5{fill:var(--h5)}path.h6{fill:var(--h6)}path.h7{fill:var(--h7)}path.h8{fill:var(--h8)}path.h9{fill:var(--h9)}
i.h0{background:var(--h0)}i.h1{background:var(--h1)}i.h2{background:var(--h2)}i.h3{background:var(--h3)}i.h4{background:var(--h4)}i.h5{background:var(--h5)}i.h6{background:var(--h6)}i.h7{background:var(--h7)}i.h8{background:var(--h8)}i.h9{background:var(--h9)}
)";

}  // namespace cadre::report
