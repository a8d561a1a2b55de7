// The fixed parts of report.html: style, script, and the controls that only scripts show.
#pragma once

namespace glia::results {

inline constexpr const char* kReportStyle = R"css(
:root{color-scheme:light dark;--ink:#222;--soft:#666;--line:#ddd;--paper:#fff;--shade:#f5f6f4;--accent:#1f74a6}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:0 20px 60px;color:var(--ink);background:var(--paper);
font:15px/1.5 "DejaVu Sans",Verdana,system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:28px 0 4px}
h2{font-size:1.15rem;margin:36px 0 10px;padding-bottom:4px;border-bottom:1px solid var(--line)}
h3{font-size:.95rem;margin:18px 0 2px}
header p{margin:0 0 14px;color:var(--soft)}
header .answer{color:var(--ink);font-size:1.05rem;margin:0 0 8px;max-width:85ch}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:14px 0 0;padding:0}
nav a{color:var(--accent)}
.warnings{background:#fff4d6;border:1px solid #d9a400;border-radius:6px;padding:10px 16px}
.warnings h2{margin:0;border:0;font-size:1rem}
.warnings ul{margin:4px 0 0;padding-left:20px}
.warnings li,.bad{overflow-wrap:anywhere}
.bad{color:#a00000}
.scroll{overflow-x:auto;max-width:100%}
.scroll:focus-visible,summary:focus-visible,select:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.scroll table{border-collapse:separate;border-spacing:0;font-size:.82rem;white-space:nowrap;margin:6px 0}
.scroll th,.scroll td{padding:4px 9px;text-align:right;border-bottom:1px solid var(--line)}
.scroll th:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}
.scroll thead th{border-bottom:2px solid var(--soft);font-weight:600}
.scroll tbody th{font-weight:500}
.csv{font-size:.75rem;font-weight:400;margin-left:6px;color:var(--accent)}
.sort{all:unset;cursor:pointer}
.sort:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.sort::after{content:"\2195";margin-left:4px;color:var(--soft)}
[aria-sort=ascending] .sort::after{content:"\2191"}
[aria-sort=descending] .sort::after{content:"\2193"}
.scroll tbody tr:hover td,.scroll tbody tr:hover th{background:var(--shade)}
.note,figcaption{color:var(--soft);font-size:.82rem;max-width:80ch;margin:4px 0 18px}
figure{margin:0 0 26px}
figure svg{display:block;max-width:100%;height:auto;min-width:620px}
.pair{display:flex;flex-wrap:wrap;gap:6px 24px}
.pair figure{flex:1 1 380px;max-width:100%;margin:0}
.pair figure svg{min-width:360px}
details{margin:6px 0}
summary{cursor:pointer;padding:3px 0}
.config>summary{font-weight:600}
.config>.map{margin-left:14px}
.grids{display:flex;flex-wrap:wrap;gap:14px 26px;margin:8px 0 16px}
.grid{font-size:.72rem}
.grid caption{text-align:left;font-weight:600;padding-bottom:3px}
.grid th{font-weight:400;padding:2px 6px;color:var(--soft)}
.grid th[scope=row]{text-align:right;color:var(--ink)}
.grid td{padding:4px 5px;text-align:center;border:1px solid #fff;color:#000;min-width:36px}
.grid td.d{color:#fff}
.controls{display:none;flex-wrap:wrap;gap:8px 18px;margin:8px 0 12px}
.controls label{display:flex;gap:6px;align-items:center}
.controls select{font:inherit;padding:3px 6px;max-width:100%}
.scripted .controls{display:flex}
.scripted .config>summary,.scripted .map>summary{display:none}
.scripted .config>.map{margin-left:0}
[hidden]{display:none!important}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:0 0 18px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
@media (max-width:640px){body{padding:0 12px 40px;font-size:14px}dl{grid-template-columns:1fr}dd{margin-bottom:6px}
.grid td{min-width:30px;padding:4px 2px}.grid th{padding:2px 3px}}
@media (prefers-color-scheme:dark){:root{--ink:#e8e8e6;--soft:#b4b4b0;--line:#444;--paper:#1b1c1e;--shade:#26282b;--accent:#7cc0ea}
.warnings{background:#3a3115;border-color:#b08a1c}.bad{color:#ff9a9a}
figure .scroll{background:#fff;border-radius:6px;padding:4px}.grid td{border-color:#1b1c1e}}
@media print{details:not([open])>*{display:none}.controls{display:none!important}}
)css";

inline constexpr const char* kHeatmapControls =
    "<div class=\"controls\"><label>configuration <select id=\"pick-config\"></select></label>"
    "<label>seed <select id=\"pick-seed\"></select></label>"
    "<label>tokens <select id=\"pick-rows\"><option value=\"all\">all tokens</option>"
    "<option value=\"cls\">CLS rows only</option></select></label>"
    "<label>layer <select id=\"pick-layer\"></select></label></div>\n";

// A column's heading sorts by it: up, down, as it was. Numbers by their value ("0.94 ±0.01", "<0.001"), and what is no
// value (n/a, –) always last.
inline constexpr const char* kSortScript = R"js(
(function(){
function value(row,column){var text=row.cells[column].textContent.trim();
if(text===''||text==='n/a'||text==='\u2013')return null;
var number=parseFloat(text.replace(/^[<(]/,''));return isNaN(number)?text:number}
function compare(a,b){if(typeof a!==typeof b)return typeof a==='number'?-1:1;
return typeof a==='number'?a-b:a.localeCompare(b)}
[].forEach.call(document.querySelectorAll('.scroll thead'),function(head){
var body=head.parentNode.tBodies[0],original=[].slice.call(body.rows);
[].forEach.call(head.rows[0].cells,function(cell,column){
var button=document.createElement('button');button.type='button';button.className='sort';
button.title='sort by this column';button.textContent=cell.textContent;cell.textContent='';cell.appendChild(button);
button.addEventListener('click',function(){
var next={ascending:'descending',descending:''}[cell.getAttribute('aria-sort')];if(next===undefined)next='ascending';
[].forEach.call(head.rows[0].cells,function(c){c.removeAttribute('aria-sort')});
var rows=original.slice();
if(next){cell.setAttribute('aria-sort',next);var sign=next==='ascending'?1:-1;
rows.sort(function(a,b){var x=value(a,column),y=value(b,column);
if(x===null||y===null)return (x===null)-(y===null)||original.indexOf(a)-original.indexOf(b);
return sign*compare(x,y)||original.indexOf(a)-original.indexOf(b)})}
rows.forEach(function(row){body.appendChild(row)})})})})})();
)js";

// Fills the four boxes from what is on the page and hides all maps but the chosen one. A choice of one layer shows
// that layer of a single seed's grids; the picture of the mean always has all layers.
inline constexpr const char* kReportScript = R"js(
(function(){
var box=document.getElementById('heatmaps');if(!box)return;
var configs=[].slice.call(box.querySelectorAll('.config'));
var pick={};['config','seed','rows','layer'].forEach(function(k){pick[k]=document.getElementById('pick-'+k)});
function fill(select,values,labels){var old=select.value;select.textContent='';values.forEach(function(v,i){
var o=document.createElement('option');o.value=v;o.textContent=labels?labels[i]:v;select.appendChild(o)});
if(values.indexOf(old)>=0)select.value=old}
function unique(nodes,key){var out=[];[].forEach.call(nodes,function(n){
var v=n.dataset[key];if(out.indexOf(v)<0)out.push(v)});return out}
function show(){
var config=configs.filter(function(c){return c.dataset.config===pick.config.value})[0];
var seeds=unique(config.querySelectorAll('.map'),'seed');
fill(pick.seed,seeds,seeds.map(function(s){return s==='mean'?'mean of the seeds (experts matched)':'seed'+s}));
var layers=unique(config.querySelectorAll('.grid'),'layer');
fill(pick.layer,['all'].concat(layers),['all layers'].concat(layers));
pick.layer.disabled=pick.seed.value==='mean';
configs.forEach(function(c){c.hidden=c!==config;c.open=true});
[].forEach.call(config.querySelectorAll('.map'),function(m){
m.hidden=m.dataset.seed!==pick.seed.value||m.dataset.rows!==pick.rows.value;if('open' in m)m.open=true});
[].forEach.call(config.querySelectorAll('.grid'),function(g){
g.hidden=pick.layer.value!=='all'&&g.dataset.layer!==pick.layer.value&&pick.seed.value!=='mean'})}
box.classList.add('scripted');
fill(pick.config,configs.map(function(c){return c.dataset.config}));
Object.keys(pick).forEach(function(k){pick[k].addEventListener('change',show)});
show()})();
)js";

}  // namespace glia::results
