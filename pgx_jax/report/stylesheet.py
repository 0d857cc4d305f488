"""How ``report.html`` looks, on wide and narrow screens, in light and in dark."""

CSS = """
:root{--ink:#1b2231;--soft:#5a6478;--line:#dfe3ea;--paper:#fff;--page:#f6f7f9;--blue:#1668b3;
--good:#0b7a56;--bad:#b3401a;--hint:#8a6100}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaf0;--soft:#a3adbf;--line:#323947;--paper:#1b2029;
--page:#12151b;--blue:#6bb3f2;--good:#3fc294;--bad:#f08a5d;--hint:#e0b04a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue","DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1040px;margin:0 auto;padding:clamp(16px,4vw,48px)}
h1{font-size:clamp(1.7rem,5vw,2.4rem);line-height:1.15;margin:0 0 20px;letter-spacing:-.02em;
overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 16px;letter-spacing:-.01em}
h3{font-size:.95rem;margin:20px 0 8px}
.eyebrow{margin:0 0 4px;color:var(--soft);font-size:.8rem;letter-spacing:.08em;text-transform:uppercase}
.advice{--tone:var(--soft);background:var(--paper);border:1px solid var(--line);border-left:5px solid
var(--tone);border-radius:10px;padding:18px 22px}
.advice.good{--tone:var(--good)}.advice.bad{--tone:var(--bad)}.advice.hint{--tone:var(--hint)}
.advice p{margin:8px 0 0;font-size:1.08rem}
.badge{color:var(--tone);font-weight:700}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(134px,1fr));margin:16px 0 0;
background:var(--paper);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.facts div{padding:11px 13px;box-shadow:0 0 0 .5px var(--line)}
.facts dt{color:var(--soft);font-size:.78rem}
.facts dd{margin:0;font-size:1.14rem;white-space:nowrap;font-weight:600;font-variant-numeric:tabular-nums}
.facts small{display:block;font-size:.72rem;font-weight:400;color:var(--soft)}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;margin-top:20px;
padding:clamp(16px,3vw,28px)}
figure{margin:0 0 8px}
figcaption{color:var(--soft);font-size:.88rem;margin-top:8px;max-width:76ch}
.plot,.scroll{overflow-x:auto}
.plot>div{margin:0 auto}
svg{display:block;width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin-top:14px}
th,td{text-align:left;padding:7px 12px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft);font-weight:500;font-size:.8rem;border-bottom-width:2px;vertical-align:bottom}
tbody th{font-weight:400}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.ours th,tr.ours td{font-weight:650}
th small{display:block;color:var(--soft);font-weight:400}
tbody th{min-width:8.5em}th code{overflow-wrap:anywhere}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;color:var(--soft)}
.settings th{width:1%;white-space:nowrap;padding-right:28px}.settings td{overflow-wrap:anywhere}
.tag{border:1px solid currentColor;border-radius:4px;padding:0 6px;color:var(--hint)}
details{margin-top:14px}summary{cursor:pointer;color:var(--blue);font-size:.92rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:12px}
.card{border:1px solid var(--line);border-top:4px solid var(--c);border-radius:8px;padding:10px 14px}
.card h3{margin:0 0 6px;display:flex;justify-content:space-between}
.card h3 span{color:var(--soft);font-weight:400;font-size:.82rem}
.card ul{margin:0;padding:0;list-style:none;font-size:.92rem}
.card li{overflow-wrap:anywhere}
.chips{margin:0;padding:0;list-style:none;display:flex;flex-wrap:wrap;gap:6px}
.chips li{border:1px solid var(--line);border-left:4px solid var(--c);border-radius:5px;padding:1px 8px;
font-size:.86rem;overflow-wrap:anywhere}
.dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;background:var(--c);margin-right:.5em}
.flow{list-style:none;margin:0 0 18px;padding:0;display:flex;flex-wrap:wrap;gap:8px 26px}
.flow li{position:relative;border:1px solid var(--line);border-radius:999px;padding:3px 13px;font-size:.88rem}
.flow li:not(:last-child)::after{content:"→";position:absolute;right:-21px;color:var(--soft)}
footer{color:var(--soft);font-size:.84rem;margin-top:24px}
@media print{body{background:#fff}section,.advice{break-inside:avoid}details{display:block}}
"""
