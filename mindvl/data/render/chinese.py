"""Common Chinese words, written so that most of them exist in fonts made for Chinese and for Japanese alike.

Only those that the font in use really covers are drawn (see `words`), and each belongs to one split.
"""

COMMON_WORDS = """
中国 北京 上海 天津 重庆 南京 武汉 西安 成都 香港 台湾 山东 四川 湖南 大学 中学 小学 学校 学生 先生
老师 朋友 父母 母亲 父亲 孩子 人民 世界 社会 国家 公司 工作 工人 生活 文化 文学 音乐 美术 科学 数学
物理 化学 历史 地理 天空 太阳 月亮 月光 星星 大海 河流 山水 森林 花园 公园 道路 火车 汽车 电影 电话
电脑 手机 图书 新年 今天 明天 昨天 早上 中午 下午 晚上 时间 星期 春天 夏天 秋天 冬天 东方 西方 南方
北方 左右 前后 上下 大小 多少 高低 牛奶 面包 水果 苹果 茶叶 米饭 白菜 黄瓜 豆腐 牛肉 羊肉 金色 白色
黑色 青年 少年 自由 和平 幸福 安全 健康 方法 问题 答案 名字 地址 城市 农村 市场 商店 医院 银行 机场
车站 图片 文字 表格 数字 信息 技术 石油 空气 木材 土地 田野 草原 竹子 梅花 白云 雨水 雪山 金鱼 白马
老虎 大象 小鸟 红茶 青山 秋月 冬雪 春雨 夏日 清风 明月 流水 高山 长江 黄河 天地 日月 山川 风雨 花草
"""
